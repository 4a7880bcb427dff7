"""Files of activations: parquet in the released columns, each with a sidecar."""
