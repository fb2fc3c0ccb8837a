"""From the records of a run to tidy frames, comparisons and one self-contained HTML page. Needs no torch."""
