"""Tests of `harness.statistics`."""
