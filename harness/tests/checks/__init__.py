"""Tests of `harness.checks.registry`."""
