"""Faulty and correct variants of a small EfficientNet, by how a fault shows."""
