"""Masks drawn over images and cut out of them, with NumPy and Pillow."""
