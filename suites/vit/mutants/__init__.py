"""Faulty and correct variants of a small Vision Transformer, by how a fault shows."""
