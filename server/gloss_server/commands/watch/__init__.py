"""`gloss watch`: a model that goes on from a prompt, explained meanwhile."""
