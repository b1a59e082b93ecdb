"""Tasks by name: what is asked of a network."""
