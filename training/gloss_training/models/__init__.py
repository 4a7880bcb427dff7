"""What is trained: AV and AR over transformers models, whole or as adapters."""
