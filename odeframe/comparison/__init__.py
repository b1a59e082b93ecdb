"""The comparison: every legal combination of what is chosen, with several seeds and one budget, side by side."""
