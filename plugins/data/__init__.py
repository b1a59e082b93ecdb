"""Data modules by name, and the splits and scalings that they share."""
