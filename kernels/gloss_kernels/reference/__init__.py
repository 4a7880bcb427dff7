"""Every operation defined in plain PyTorch: the definition, and the CPU implementation."""
