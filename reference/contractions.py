"""Products of activations with activations: by a matrix product, or as a sum over an elementwise product."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from reference.dataflow import Flow
from reference.provenance import Elements, from_codes
from reference.trace import Node

MATRIX_PRODUCTS = ("bmm", "mm", "baddbmm")


@dataclass(frozen=True, eq=False, kw_only=True)
class Contraction:
    """``result[b, i, j] = sum over k of left[b, i, k] * right[b, k, j]``."""

    left: Elements
    right: Elements
    columns: tuple[int, ...]
    """The dimensions of the operation's result that j runs over."""
    operands: tuple[Elements, Elements]
    """Both sides as the operation took them."""


def read_contraction(node: Node, flow: Flow) -> Contraction | None:
    """The contraction of two activations that ``node`` gives; None for any other operation."""
    if node.op == "sum":
        return _summed(node, flow)
    if node.op not in MATRIX_PRODUCTS:
        return None
    left, right = [argument.elements for argument in node.args if hasattr(argument, "elements")][-2:]
    if not (flow.is_dynamic(left) and flow.is_dynamic(right)):
        return None
    last = len(flow.trace.sources[node.output].size) - 1
    return Contraction(left=batched(left), right=batched(right), columns=(last,), operands=(left, right))


def batched(elements: Elements) -> Elements:
    """A matrix as a batch of one."""
    return elements if len(elements.size) == 3 else elements.reshape(1, *elements.size)


def _summed(node: Node, flow: Flow) -> Contraction | None:
    """``(a * b).sum(k)`` where each side is broadcast along dimensions of the other: i and j.

    A dimension that both have is of the batch. Where neither is broadcast nothing is contracted: a sum of squares.
    """
    sources = node.operands[0].elements.sources()
    product = flow.trace.node_of(sources[0]) if len(sources) == 1 else None
    if product is None or product.op != "mul" or len(product.operands) != 2:
        return None
    size = flow.trace.sources[product.output].size
    whole = node.operands[0].elements
    summed = node.args[1] if len(node.args) > 1 else None
    if not isinstance(summed, list | tuple) or len(summed) != 1 or whole.table is not None or whole.size != size:
        return None
    over = summed[0] % len(size)
    sides = [operand.elements for operand in product.operands]
    if not all(flow.is_dynamic(side) for side in sides):
        return None
    left, right = (side.reshape(*(1,) * (len(size) - len(side.size)), *side.size) for side in sides)
    if left.size[over] != right.size[over]:
        return None
    others = [dim for dim in range(len(size)) if dim != over]
    rows = [dim for dim in others if right.size[dim] < left.size[dim]]
    columns = [dim for dim in others if left.size[dim] < right.size[dim]]
    shared = [dim for dim in others if dim not in rows and dim not in columns]
    if not rows and not columns:
        return None
    kept = len(node.args) > 2 and bool(node.args[2])
    return Contraction(
        left=_arranged(left.codes(), shared, rows, [over]),
        right=_arranged(right.codes(), shared, [over], columns),
        columns=tuple(dim - (dim > over and not kept) for dim in columns),
        operands=(sides[0], sides[1]),
    )


def _arranged(codes: Tensor, *groups: list[int]) -> Elements:
    """Three dimensions, each of them a group of those there are; the rest have length one."""
    order = [dim for group in groups for dim in group]
    rest = [dim for dim in range(codes.dim()) if dim not in order]
    return from_codes(
        codes.permute(*order, *rest).reshape([prod(codes.shape[dim] for dim in group) for group in groups])
    )
