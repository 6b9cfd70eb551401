"""What a step of training sees: views of images with their masks, batches, targets of cells."""
