"""Tests of `harness.plugin`."""
