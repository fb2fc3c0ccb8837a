"""Faulty and correct detectors, by the part that is wrong."""
