"""Between the two processes: what front and engine say to each other, and how."""
