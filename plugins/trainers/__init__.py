"""Control trainers."""
