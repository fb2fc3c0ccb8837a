"""Tests of `reports.frames.run`."""
