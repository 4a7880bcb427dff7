"""`gloss verbalize`: a file of activations to explanations."""
