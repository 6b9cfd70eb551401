"""The page of `soloist studio`: objects under the pointer, corrections that are learned from."""
