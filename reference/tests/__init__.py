"""Tests of alignment, transplant and localisation."""
