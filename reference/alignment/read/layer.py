"""Layers and their graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reference.alignment.graph.dataflow import Flow
from reference.alignment.graph.elements import Elements
from reference.alignment.graph.trace import Node, Trace


@dataclass(eq=False)
class Layer:
    """An operation with parameters (or attention), in a form independent of how it was written."""

    number: int
    kind: str
    roles: dict[str, Elements]
    """``weight``, ``bias``, ``running_mean``, ``running_var``: which state plays the role, in a fixed layout."""
    node: Node
    output: int
    """Source number of the result."""
    operand: Elements
    """The layer's input."""
    hyper: dict[str, Any] = field(default_factory=dict)
    before: frozenset[tuple[int, str]] = frozenset()
    """(number, port) of the layers whose results reach this one without another layer in between."""
    part: str = ""
    """``q``, ``k`` or ``v`` of a projection that was split."""
    feature_dim: int = 1
    """The dimension of the main operation's result that the features lie on."""
    chain: list[Node] = field(default_factory=list)
    """The operations of a norm, scale or embedding written by hand."""
    origins: tuple[int, ...] = ()
    """Sources of the columns of a product's input, in their order."""
    open: bool = False
    """Whether ``output`` lacks the bias, which is added after the join with a shortcut."""
    beside: bool = False
    """Whether ``output`` also holds features of other layers, which were cut from the same linear map."""
    pieces: list[Elements] = field(default_factory=list)
    """The state that each summand uses, where the result is a sum of them: a convolution, shift by shift."""
    ports: dict[str, Elements] = field(default_factory=dict)
    """The ``q``, ``k`` and ``v`` of attention."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape in the fixed layout (that of the largest role where there is no weight)."""
        if not self.roles:
            return ()
        weight = self.roles.get("weight")
        return weight.size if weight is not None else max((e.size for e in self.roles.values()), key=len)


def as_vector(elements: Elements) -> Elements:
    """The elements in logical order, in one dimension: the layout of biases, gains and statistics."""
    squeezed = elements.squeeze()
    return squeezed if len(squeezed.size) == 1 else squeezed.reshape(squeezed.numel)


@dataclass(eq=False)
class LayerGraph:
    """The layers of one trace in execution order."""

    trace: Trace
    flow: Flow
    layers: list[Layer]
    """Attention stands among them with no roles; its projections are split into ``q``, ``k`` and ``v``."""
