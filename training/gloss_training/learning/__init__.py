"""Updates: the supervised loop, the optimizer, and what a stage tells meanwhile."""
