"""Training of natural-language autoencoders: data, supervised stages, evaluation."""
