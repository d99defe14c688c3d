"""hedgebench: one command compares attention mechanisms."""

__version__ = "0.1.0"
