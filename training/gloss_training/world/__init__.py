"""The tiny world: stories whose facts are known, their grammar, and the target that reads them."""
