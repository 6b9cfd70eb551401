"""Coarse masks of images without labels: who makes them, and what makes them better."""
