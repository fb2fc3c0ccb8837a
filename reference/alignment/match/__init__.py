"""Pairs of layers, and of the elements of their state."""
