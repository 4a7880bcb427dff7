"""`gloss plan`: what fits, and how fast it can be."""
