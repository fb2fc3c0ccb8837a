"""Tests of `harness.subjects`."""
