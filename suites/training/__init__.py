"""Shared by the training loops of the suites: checkpoints, interruption, progress. Not a suite."""
