"""Masks that look alike: groups of a file's masks, and the nearest ones to a mask."""
