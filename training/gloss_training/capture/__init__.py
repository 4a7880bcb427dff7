"""Activations of documents: read with the target, kept as parts until all are there."""
