"""The `gloss` command and, later, the service behind it."""

__version__ = "0.1.0"
