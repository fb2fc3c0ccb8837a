"""Dataflow through a trace: producers, consumers, and the state behind a value."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from reference.alignment.graph.elements import CONSTANT, SHIFT, Elements, position_of, source_of
from reference.alignment.graph.trace import Node, Source, Trace

ELEMENTWISE = frozenset({
    "add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv", "neg", "pow", "sqrt", "rsqrt", "exp", "erf",
    "abs", "square", "relu", "relu6", "gelu", "silu", "sigmoid", "hardswish", "hardsigmoid", "hardtanh", "tanh",
    "clamp", "clamp_min", "clamp_max", "leaky_relu", "elu", "mish", "softplus", "threshold", "native_dropout",
    "masked_fill", "where", "reciprocal", "maximum", "minimum", "lerp", "log_sigmoid_forward",
})  # fmt: skip
"""Operations whose result at an index depends only on the operands at that (broadcast) index."""


def coordinates(source: Source, positions: Tensor) -> list[Tensor]:
    """The index along each dimension of the result that lies at ``positions`` of its storage."""
    rest = positions - source.offset
    found: list[Tensor] = [torch.zeros_like(rest) for _ in source.size]
    order = sorted(range(len(source.size)), key=lambda d: source.stride[d], reverse=True)
    for dim in order:
        if source.size[dim] > 1:
            found[dim] = rest // source.stride[dim]
            rest = rest % source.stride[dim]
    return found


def codes_at(elements: Elements, index: list[Tensor]) -> Tensor:
    """The codes at a multi-index of a shape that ``elements`` broadcasts to."""
    skipped = len(index) - len(elements.size)
    kept = [torch.zeros_like(i) if n == 1 else i for i, n in zip(index[skipped:], elements.size, strict=True)]
    if elements.table is not None:
        return elements.table[tuple(kept)] if kept else elements.table.expand(index[0].shape)
    codes = torch.full_like(index[0], (elements.source << SHIFT) + elements.offset)
    for i, stride in zip(kept, elements.stride, strict=True):
        codes = codes + i * stride
    return codes


class Flow:
    """Producers and consumers of every value in a trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.consumers: dict[int, list[Node]] = defaultdict(list)
        for node in trace.nodes:
            for source in {s for operand in node.operands for s in operand.elements.sources()}:
                self.consumers[source].append(node)

    def is_dynamic(self, elements: Elements) -> bool:
        """Whether any element depends on the input."""
        return any(self.trace.sources[source].dynamic for source in elements.sources())

    def is_state(self, elements: Elements) -> bool:
        """Whether every element that is not constant is an unchanged parameter or buffer."""
        sources = elements.sources()
        return bool(sources) and all(self.trace.sources[source].kind == "state" for source in sources)

    def leaves(self, elements: Elements) -> list[Elements]:
        """The parameters and buffers that a value independent of the input is computed from."""
        if self.is_state(elements):
            return [elements]
        found: list[Elements] = []
        for source in elements.sources():
            node = self.trace.node_of(source)
            if node is not None and not self.trace.sources[source].dynamic:
                for operand in node.operands:
                    found += self.leaves(operand.elements)
        return found

    def state_of(self, elements: Elements) -> Elements | None:
        """The state behind a static value: itself, or the one leaf of its size that it was computed from."""
        if self.is_state(elements):
            return elements
        leaves = [leaf for leaf in self.leaves(elements) if leaf.numel == elements.numel]
        return leaves[0].reshape(*elements.size) if leaves else None

    def through(self, node: Node) -> Elements | None:
        """The only dynamic operand of an elementwise operation, None for any other operation."""
        if node.op not in ELEMENTWISE:
            return None
        dynamic = [operand.elements for operand in node.operands if self.is_dynamic(operand.elements)]
        return dynamic[0] if len(dynamic) == 1 else None

    def normalised(self, node: Node) -> Elements | None:
        """The operand that a product or quotient of activations scales by one number per token; None for others."""
        dynamic = [operand.elements for operand in node.operands if self.is_dynamic(operand.elements)]
        if node.op not in ("mul", "div") or len(dynamic) != 2:
            return None
        features, statistic = sorted(dynamic, key=lambda elements: -elements.numel)
        by_token = statistic.size == (*features.size[:-1], 1) and features.size[-1] > 1
        return features if by_token else None

    def resolve(self, codes: Tensor) -> Tensor:
        """Codes (any shape) followed back through elementwise operations to where they come from."""
        flat = codes.reshape(-1)
        while True:
            moved = False
            for number in torch.unique(source_of(flat)).tolist():
                node = self.trace.node_of(number) if number != CONSTANT else None
                before = self.through(node) if node is not None and node.output == number else None
                if before is None:
                    continue
                mask = source_of(flat) == number
                index = coordinates(self.trace.sources[number], position_of(flat[mask]))
                flat = flat.masked_scatter(mask, codes_at(before, index))
                moved = True
            if not moved:
                return flat.view(codes.shape)
