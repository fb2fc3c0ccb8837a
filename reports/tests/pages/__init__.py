"""Tests of `reports.pages`."""
