"""Tables made of many trainings: what a segmenter is worth as a start, and the ablations."""
