"""Padding that stands before a convolution as an operation of its own."""

from __future__ import annotations

from reference.alignment.graph.elements import CONSTANT, Elements, from_codes, source_of

Padding = tuple[int, ...] | tuple[tuple[int, int], ...]


def without_padding(elements: Elements, own: tuple[int, ...]) -> tuple[Elements, Padding]:
    """A feature map without its border of constants, and what the convolution pads in all.

    ``elements`` is (batch, channels, height, width), ``own`` the convolution's padding on each side. The result is one
    number for each dimension, as a convolution takes it, or (before, after) where the two differ.
    """
    if elements.table is None or len(elements.size) != 4:
        return elements, own
    inner = source_of(elements.table[0, 0]) != CONSTANT
    spans = []
    for dim in (0, 1):
        kept = inner.any(dim=1 - dim).nonzero().reshape(-1)
        if not len(kept):
            return elements, own
        spans.append((int(kept[0]), inner.shape[dim] - 1 - int(kept[-1])))
    (top, bottom), (left, right) = spans
    height, width = elements.size[2:]
    data = from_codes(elements.table[:, :, top : height - bottom, left : width - right])
    total = [(before + side, after + side) for (before, after), side in zip(spans, own, strict=True)]
    if all(before == after for before, after in total):
        return data, tuple(before for before, _ in total)
    return data, tuple(total)
