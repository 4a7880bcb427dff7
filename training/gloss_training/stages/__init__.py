"""The stages of a run, each from the files before it to its own."""
