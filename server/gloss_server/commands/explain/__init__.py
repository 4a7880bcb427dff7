"""`gloss explain`: texts to explanations."""
