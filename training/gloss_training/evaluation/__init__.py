"""What a pair is worth: fidelity, the controls that FVE needs beside it, and truth."""
