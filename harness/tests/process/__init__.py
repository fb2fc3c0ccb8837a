"""Tests of `harness.process`."""
