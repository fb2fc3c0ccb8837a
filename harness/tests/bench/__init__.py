"""Tests of `harness.bench`."""
