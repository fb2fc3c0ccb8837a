"""Tests of the comparisons with the references."""
