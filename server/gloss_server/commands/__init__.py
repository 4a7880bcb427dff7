"""What the commands of `gloss` do, a module or a package each."""
