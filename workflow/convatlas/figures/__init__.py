"""The pictures, one module per kind; they read artifacts, never a network."""
