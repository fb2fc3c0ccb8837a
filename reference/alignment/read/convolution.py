"""Convolutions, with the padding that stands before one as an operation of its own."""

from __future__ import annotations

from reference.alignment.graph.elements import CONSTANT, Elements, from_codes, source_of
from reference.alignment.graph.trace import Node
from reference.alignment.read.layer import Layer
from reference.alignment.read.linear import read_rearranged
from reference.alignment.read.reading import Reading

CONVOLUTION = "convolution"

Padding = tuple[int, ...] | tuple[tuple[int, int], ...]


def recognise_convolution(node: Node, reading: Reading) -> Layer | None:
    """A convolution with a kernel of state; one of 1 by 1 without groups is a linear map of (out, in)."""
    if node.op != CONVOLUTION:
        return None
    data, weight, bias, stride, padding, dilation, _, _, groups = node.args
    roles = reading.roles(weight=weight, bias=bias)
    if "weight" not in roles:
        return None
    kind = "convolution"
    if groups == 1:
        rearranged = read_rearranged(roles["weight"], data.elements, tuple(stride), reading.flow)
        roles["weight"] = roles["weight"] if rearranged is None else rearranged
    kernel = roles["weight"].size[2:]
    if all(k == 1 for k in kernel) and groups == 1:
        kind = "linear"
        roles["weight"] = roles["weight"].reshape(*roles["weight"].size[:2])
    operand, padded = _without_padding(data.elements, tuple(padding))
    layer = reading.add(kind, roles, node, operand)
    layer.hyper = {
        "kernel": tuple(kernel), "stride": tuple(stride), "padding": padded, "dilation": tuple(dilation),
        "groups": groups,
    }  # fmt: skip
    reading.main[node.output] = layer
    return layer


def _without_padding(elements: Elements, own: tuple[int, ...]) -> tuple[Elements, Padding]:
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
