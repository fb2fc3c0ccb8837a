"""Multi-task learning: one trunk, several heads, one loss."""
