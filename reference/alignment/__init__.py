"""Matches the state of a subject with a reference's without names; ALGORITHM.md says how."""

from reference.alignment.match.align import AlignedLayer, Alignment, AlignmentError, align

__all__ = ["AlignedLayer", "Alignment", "AlignmentError", "align"]
