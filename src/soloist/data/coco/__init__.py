"""COCO files between the stages: types, reading, writing, run lengths, outlines, shards."""
