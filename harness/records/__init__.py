"""Rows of a run and the folders that hold them; no torch, no pandas."""
