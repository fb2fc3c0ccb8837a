"""Tests of `reports.comparison`."""
