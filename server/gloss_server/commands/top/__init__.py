"""`gloss top`: servers' live figures."""
