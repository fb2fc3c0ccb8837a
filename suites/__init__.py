"""Architectures and recipes, each with the evidence about it."""
