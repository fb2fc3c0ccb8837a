"""Layers read from the graph, however they were written."""
