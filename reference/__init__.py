"""Reference implementations, their weights, and the alignment of any model with them."""
