"""`gloss capture`: texts to a file of activations."""
