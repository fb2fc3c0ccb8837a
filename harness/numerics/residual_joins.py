"""Residual joins, read off the autograd graph of any implementation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

ADDS = ("AddBackward0", "SubBackward0", "AddBackward1")


@dataclass(frozen=True)
class Join:
    """An addition whose two operands come from one earlier activation, ``split``."""

    shape: tuple[int, ...]
    branches: tuple[GradientEdge, GradientEdge]
    split: GradientEdge
    node: Any

    @property
    def identity(self) -> bool:
        """Whether one branch is the earlier activation itself."""
        return any(b.node is self.split.node for b in self.branches)


@dataclass(frozen=True)
class Cut:
    """An addition of two activations of which one operand carries no gradient."""

    shape: tuple[int, ...]


def nodes(root: Any) -> Iterator[Any]:
    """Every node below ``root``, the latest first."""
    seen = {root}
    stack = [root]
    found = []
    while stack:
        node = stack.pop()
        found.append(node)
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)
    found.sort(key=_executed, reverse=True)
    yield from found


def _executed(node: Any) -> int:
    """Place in the order of execution; leaves (gradient accumulators) come before everything."""
    return -1 if getattr(node, "variable", None) is not None else int(node._sequence_nr())


def joins(logits: Tensor, source: Tensor) -> tuple[list[Join], list[Cut]]:
    """Joins in the order of execution, and additions with a branch that carries no gradient.

    ``source`` is the input of the network and requires grad: an operand counts as an activation when it depends on it.
    """
    order = list(nodes(logits.grad_fn))
    position = {node: len(order) - i for i, node in enumerate(order)}
    children = {n: [c for c, _ in n.next_functions if c is not None] for n in order}
    activations = _reaching(order, children, source)
    found: list[Join] = []
    cuts: list[Cut] = []
    for node in reversed(order):
        if node.name() not in ADDS:
            continue
        edges = node.next_functions[:2]
        shape = tuple(node._input_metadata[0].shape)
        live = [(c, i) for c, i in edges if c is not None and c in activations]
        if len(live) == 2 and all(_shape(c, i) == shape for c, i in live):
            split = _split(live[0][0], live[1][0], children, position, activations)
            if split is not None:
                branches = (GradientEdge(*live[0]), GradientEdge(*live[1]))
                index = next((e.output_nr for e in branches if e.node is split), 0)
                found.append(Join(shape, branches, GradientEdge(split, index), node))
        elif len(live) == 1 and any(c is None for c, _ in edges) and _shape(*live[0]) == shape:
            cuts.append(Cut(shape))
    return found, cuts


def _shape(node: Any, index: int) -> tuple[int, ...] | None:
    metadata = node._input_metadata
    return tuple(metadata[index].shape) if index < len(metadata) else None


def _reaching(order: list[Any], children: dict[Any, list[Any]], source: Tensor) -> set[Any]:
    """Nodes from which the source is reached."""
    reaching: set[Any] = set()
    for node in reversed(order):  # children were executed earlier
        variable = getattr(node, "variable", None)
        if variable is source or any(c in reaching for c in children[node]):
            reaching.add(node)
    return reaching


def _split(
    first: Any, second: Any, children: dict[Any, list[Any]], position: dict[Any, int], activations: set[Any]
) -> Any:
    """The latest activation that both operands depend on (an operand depends on itself)."""
    import heapq

    heap: list[tuple[int, int, Any]] = []
    marks: dict[Any, int] = {}

    def mark(node: Any, bit: int) -> None:
        if node not in marks:
            heapq.heappush(heap, (-position[node], id(node), node))
        marks[node] = marks.get(node, 0) | bit

    mark(first, 1)
    mark(second, 2)
    while heap:
        node = heapq.heappop(heap)[2]
        bits = marks[node]
        if bits == 3:
            return None if getattr(node, "variable", None) is not None else node
        for child in children[node]:
            if child in activations:
                mark(child, bits)
    return None


def branch_gradients(join: Join, seed: int) -> tuple[Tensor, list[Tensor | None]]:
    """A random gradient at the join, and what each branch alone makes of it at the split.

    Following one branch alone is cutting the other: what arrives can't have come through it.
    """
    generator = torch.Generator().manual_seed(seed)
    arriving = torch.randn(join.shape, generator=generator, dtype=torch.float64)
    metadata = join.branches[0].node._input_metadata[join.branches[0].output_nr]
    arriving = arriving.to(metadata.dtype)
    gradients: list[Tensor | None] = []
    for branch in join.branches:
        if branch.node is join.split.node and branch.output_nr == join.split.output_nr:
            gradients.append(arriving)
            continue
        (gradient,) = torch.autograd.grad((branch,), (join.split,), (arriving,), retain_graph=True, allow_unused=True)
        gradients.append(gradient)
    return arriving, gradients
