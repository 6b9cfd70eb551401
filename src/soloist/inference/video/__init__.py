"""Videos: their frames, objects followed from frame to frame, and what is written of them."""
