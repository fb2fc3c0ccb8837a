"""Clocks, interleaved rounds, memory, counts, and what is derived from them when read."""
