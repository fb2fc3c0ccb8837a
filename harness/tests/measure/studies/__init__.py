"""Tests of `harness.measure.studies`."""
