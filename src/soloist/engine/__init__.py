"""Loops that join networks, targets, losses and files."""
