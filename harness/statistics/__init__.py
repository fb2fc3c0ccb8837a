"""Estimators and tests on raw samples; numpy and scipy only."""
