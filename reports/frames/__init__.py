"""The pandas API: a run as tidy frames.

>>> from reports.frames import load, checks, measurements, samples, speeds, ratios
>>> run = load("results/20260101T120000-ab12")
>>> from reports.frames import history
>>> history("results")  # many runs: one row per run and figure

Every frame has fixed columns, also when it is empty; strings are never missing ("" instead), numbers are NaN where
they aren't known. Units are SI: seconds, bytes, flops (a multiply-add is two).

A run that ends with ``--benchmark`` also leaves ``checks.parquet`` and ``measurements.parquet`` beside its records,
with the columns of `checks` and `measurements`; ``details`` is JSON text in them.
"""

from reports.frames.history import history
from reports.frames.ratios import ratios, speeds
from reports.frames.run import Run, checks, load, measurements, samples

__all__ = ["Run", "checks", "history", "load", "measurements", "ratios", "samples", "speeds"]
