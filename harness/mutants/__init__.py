"""Faulty variants that the checks must reject, and correct ones, differently written, that they must accept.

`python -m harness.mutants` runs every check on every variant and records the kill matrix.
"""
