"""Tests of `reports.sections`."""
