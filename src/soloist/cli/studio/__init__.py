"""A small page to try a segmenter on one's own picture: `soloist app`."""
