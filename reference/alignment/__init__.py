"""Matches the parameters and buffers of two models without names; ALGORITHM.md explains how."""

from reference.alignment.match.align import AlignedLayer, Alignment, AlignmentError, align

__all__ = ["AlignedLayer", "Alignment", "AlignmentError", "align"]
