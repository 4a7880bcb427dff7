"""How explanations look on a terminal."""
