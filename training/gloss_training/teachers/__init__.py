"""Teachers: they explain what a text's end says of the next token, and judge explanations."""
