"""Tests of `harness.numerics`."""
