"""Implementations that nobody here wrote, as subjects, and what is found of them."""
