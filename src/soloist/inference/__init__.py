"""Trained networks at work: the segmenter and its results, lists, videos, tiles, shards."""
