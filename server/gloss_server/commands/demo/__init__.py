"""`gloss demo`: the embedded models on a story."""
