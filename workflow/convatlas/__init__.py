"""convatlas: the atlas of a convolutional network."""

__version__ = "0.1.0"
