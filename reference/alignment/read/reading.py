"""What has been read of a trace so far: the state that the recognisers in `reader` share."""

from __future__ import annotations

from typing import Any

from reference.alignment.graph.dataflow import Flow
from reference.alignment.graph.elements import Elements
from reference.alignment.graph.trace import Node, Operand, Trace
from reference.alignment.read.layer import Layer

ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv"})

Frontier = frozenset[tuple[int, str]]
"""(layer number, port) of the layers that reach a value without another layer between."""


class Reading:
    """A trace and the layers found in it so far.

    A recogniser adds a layer with `add`, extends one with `extend`, and returns it; `record` then notes that the
    operation's result is that layer's.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.flow = Flow(trace)
        self.layers: list[Layer] = []
        self.owner: dict[int, Layer] = {}
        """The layer whose result a source is."""
        self.main: dict[int, Layer] = {}
        """The linear map or convolution that computed a source, which may still lack its bias."""
        self.tokens: dict[int, Layer] = {}
        """The layer that stands for a state source used as a class token."""
        self._frontiers: dict[int, Frontier] = {}
        self._count = 0

    def add(
        self, kind: str, roles: dict[str, Elements], node: Node, operand: Elements, *, output: int | None = None
    ) -> Layer:
        """A new layer that reads ``operand`` and gives the source ``output``, by default the result of ``node``."""
        kept = {role: elements for role, elements in roles.items() if elements.sources()}
        output = node.output if output is None else output
        layer = Layer(self._count, kind, kept, node, output, operand, before=self.frontier(operand))
        self._count += 1  # a layer that joins another leaves the list, but no number is given twice
        self.layers.append(layer)
        return layer

    def extend(self, layer: Layer, node: Node) -> None:
        """Let the result of ``node`` be that of ``layer``, in place of the result so far."""
        self.owner.pop(layer.output, None)
        layer.output = node.output

    def record(self, node: Node, layer: Layer | None) -> None:
        """Note that ``node`` computes the result of ``layer``, or passes its operands' layers on where it is None."""
        if layer is None:
            frontier = Frontier().union(*(self.frontier(operand.elements) for operand in node.operands))
        else:
            self.owner[layer.output] = layer
            frontier = frozenset({(layer.number, "")})
        for output in node.outputs:
            self._frontiers[output] = frontier

    def frontier(self, elements: Elements) -> Frontier:
        """The layers that reach ``elements`` without another layer between."""
        found = Frontier()
        for source in elements.sources():
            found |= self._frontiers.get(source, Frontier())
            if source in self.tokens:
                found |= {(self.tokens[source].number, "")}
        return found

    def roles(self, **arguments: Any) -> dict[str, Elements]:
        """The state behind each argument that is state; a reparametrised weight is the leaf of its size."""
        found: dict[str, Elements] = {}
        for name, argument in arguments.items():
            if not isinstance(argument, Operand) or not argument.elements.sources():
                continue
            state = None if self.flow.is_dynamic(argument.elements) else self.flow.state_of(argument.elements)
            if state is not None:
                found[name] = state
        return found

    def applied_state(self, node: Node) -> tuple[Elements, list[Elements]] | None:
        """(activations, state) where ``node`` combines one with the other; None for any other operation."""
        dynamic = [o.elements for o in node.operands if self.flow.is_dynamic(o.elements)]
        static = [o.elements for o in node.operands if not self.flow.is_dynamic(o.elements) and o.elements.sources()]
        if len(dynamic) != 1 or not static:
            return None
        return dynamic[0], [leaf for elements in static for leaf in self.flow.leaves(elements)]

    def layer_behind(self, elements: Elements) -> tuple[Layer | None, list[Node]]:
        """The layer whose result ``elements`` is, multiplications and additions of constants left aside.

        Beside it the operations in between that scale each token by a statistic of its own: part of a norm whose gain
        stands before the division.
        """
        scalings: list[Node] = []
        while True:
            sources = elements.sources()
            if len(sources) != 1:
                return None, []
            if sources[0] in self.owner:
                return self.owner[sources[0]], scalings
            node = self.trace.node_of(sources[0])
            if node is None or node.op not in ARITHMETIC:
                return None, []
            before = self.flow.through(node)
            if before is None:
                before = self.flow.normalised(node)
                scalings.insert(0, node)
            if before is None:
                return None, []
            elements = before
