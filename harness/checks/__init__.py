"""Checks that every architecture is held to: a file per kind of promise."""
