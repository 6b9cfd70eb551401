"""Reading images and annotations, augmentation, generated scenes."""
