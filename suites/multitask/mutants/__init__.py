"""Faulty and correct multi-task networks, losses, weightings and projections."""
