"""Documents: read from files, split by document, and positions chosen in each."""
