"""Data sets: from image files, or from nothing, to the images that a network sees."""
