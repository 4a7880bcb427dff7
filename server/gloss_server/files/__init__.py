"""What commands read and write: inputs in chunks, outputs that a killed run continues."""
