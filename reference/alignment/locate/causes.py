"""The likely cause of a deviation, from the structure around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reference.alignment.graph.trace import Node, Operand
from reference.alignment.match.names import activation_name, layer_name
from reference.alignment.read.layer import Layer, LayerGraph

WORDS = {
    "add": "addition", "mul": "multiplication", "sub": "subtraction", "div": "division", "mean": "mean",
    "max_pool2d_with_indices": "max pool", "avg_pool2d": "average pool",
    "_adaptive_avg_pool2d": "adaptive average pool",
    "adaptive_max_pool2d": "adaptive max pool", "native_dropout": "dropout", "amax": "maximum", "max": "maximum",
    "sum": "sum", "constant_pad_nd": "padding",
}  # fmt: skip
KINDS = {
    "eps": "eps", "momentum": "momentum", "stride": "stride", "padding": "padding", "dilation": "dilation",
    "groups": "groups", "kernel": "kernel", "heads": "number of heads", "scale": "attention scale",
    "mask": "attention mask",
}  # fmt: skip


class Place:
    """Two graphs with their aligned layers."""

    def __init__(self, subject: LayerGraph, reference: LayerGraph, pairs: list[tuple[Layer, Layer]]) -> None:
        self.subject, self.reference, self.pairs = subject, reference, pairs
        self.partner = {right.number: left for left, right in pairs}

    def after_last(self, left: Layer, right: Layer) -> str:
        """The difference of the operations between the last layer and the output."""
        ours = [n for s in self.subject.trace.output_sources for n in _back(self.subject, s, {left.output})]
        theirs = [n for s in self.reference.trace.output_sources for n in _back(self.reference, s, {right.output})]
        return _difference(ours, theirs, "before the output")


def cause_at_input(place: Place, left: Layer, right: Layer, reordered: str) -> str:
    """The likely cause where a layer's input differs though the layers before agree."""
    order = _norm_order(place)
    if order:
        return order
    ours, theirs = _between(place.subject, left), _between(place.reference, right)
    found = _difference(ours, theirs, f"before {layer_name(left, place.subject)}")
    casts = _casts(place.subject, left)
    found = found or (f"conversion {casts} before {layer_name(left, place.subject)}" if casts else "")
    return found or _sources_differ(place, left, right) or _order(reordered)


def cause_at_output(place: Place, left: Layer, right: Layer, reordered: str) -> str:
    """The likely cause where a layer's result differs though its input agrees."""
    found = []
    for key, expected in right.hyper.items():
        got = left.hyper.get(key)
        if got is not None and expected is not None and not _same(got, expected):
            text = f"{KINDS.get(key, key)} {got} instead of {expected}"
            found.append(text + _moved(place, left, right, key))
    if found:
        return ", ".join(found)
    return _order(reordered) or _inner(place, left, right)


def momentum_cause(place: Place) -> Iterator[tuple[Layer, Layer, str, float]]:
    """(subject's layer, reference's, cause, relative difference) of each BatchNorm with another momentum."""
    for left, right in place.pairs:
        got, expected = left.hyper.get("momentum"), right.hyper.get("momentum")
        if expected and got is not None and not _same(got, expected):
            yield left, right, f"momentum {got} instead of {expected}", abs(got - expected) / expected


def _same(got: Any, expected: Any) -> bool:
    if isinstance(got, float) or isinstance(expected, float):
        return abs(float(got) - float(expected)) <= 1e-2 * abs(
            float(expected)
        )  # an eps read off a handwritten norm is rounded
    return bool(got == expected)


def _moved(place: Place, left: Layer, right: Layer, key: str) -> str:
    """Whether another layer has the value that this one lacks: a stride on another convolution."""
    for other, their in place.pairs:
        swapped = other.hyper.get(key) == right.hyper.get(key) and their.hyper.get(key) == left.hyper.get(key)
        if key == "stride" and swapped and their is not right and abs(their.number - right.number) < 8:
            return f" (it is on {layer_name(other, place.subject)})"
    return ""


def _order(reordered: str) -> str:
    return (
        f"the same numbers stand in another order from {reordered} on (order of patches or tokens)" if reordered else ""
    )


def _inner(place: Place, left: Layer, right: Layer) -> str:
    """A layer written by hand that computes something else."""
    if right.kind == "attention":
        return _difference(
            _attention_nodes(place.subject, left), _attention_nodes(place.reference, right), "in attention"
        )
    if not left.chain:
        return ""
    return f"{right.kind} written by hand as {', '.join(_word(node) for node in left.chain)}"


def _attention_nodes(graph: LayerGraph, layer: Layer) -> list[Node]:
    return _back(graph, layer.output, {s for part in layer.ports.values() for s in part.sources()})


def _norm_order(place: Place) -> str:
    ours, theirs = _pre_norm(place.subject), _pre_norm(place.reference)
    if ours is None or theirs is None or ours == theirs:
        return ""
    names = {True: "before the branch (pre-norm)", False: "after the addition (post-norm)"}
    return f"norm order: {names[ours]} instead of {names[theirs]}"


def _pre_norm(graph: LayerGraph) -> bool | None:
    """Whether the inner LayerNorms' results go into a branch only, not into a residual addition as well."""
    verdicts = []
    attended = {n for layer in graph.layers if layer.part for n, _ in layer.before}
    for layer in graph.layers:
        if layer.kind == "layer_norm" and layer.number in attended:
            joins = [n for n in graph.flow.consumers.get(layer.output, []) if n.op == "add"]
            verdicts.append(not joins)
    if not verdicts:
        return None
    return sum(verdicts) * 2 > len(verdicts)


def _sources_differ(place: Place, left: Layer, right: Layer) -> str:
    names = {own.number: layer_name(their, place.reference) for own, their in place.pairs}
    ours = {names.get(n, "") for n, _ in left.before} - {""}
    theirs = {layer_name(layer, place.reference) for layer in place.reference.layers
              if layer.number in {n for n, _ in right.before} and layer.roles}  # fmt: skip
    lacking, extra = sorted(theirs - ours), sorted(ours - theirs)
    parts = []
    if lacking:
        parts.append(f"the result of {', '.join(lacking[:3])} does not reach it")
    if extra:
        parts.append(f"the result of {', '.join(extra[:3])} reaches it, which it should not")
    return "; ".join(parts)


def _between(graph: LayerGraph, layer: Layer) -> list[Node]:
    """Operations between the layers before and this one, in execution order."""
    ends = {other.output for other in graph.layers}
    ends |= {s for other in graph.layers if other.number < layer.number and other.kind != "token"
             for e in (other.operand, *other.ports.values()) for s in e.sources()}  # fmt: skip
    starts = layer.ports.values() if layer.ports else (layer.operand,)
    ends -= {s for e in starts for s in e.sources() if not _is_layer_result(graph, s)}
    found = {node.index: node for e in starts for s in e.sources() for node in _back(graph, s, ends)}
    return [found[index] for index in sorted(found)]


def _is_layer_result(graph: LayerGraph, source: int) -> bool:
    return any(layer.output == source for layer in graph.layers)


def _back(graph: LayerGraph, source: int, ends: set[int]) -> list[Node]:
    found: dict[int, Node] = {}
    edge = [source]
    while edge:
        current = edge.pop()
        node = graph.trace.node_of(current)
        if current in ends or node is None or node.index in found or not graph.trace.sources[current].dynamic:
            continue
        found[node.index] = node
        edge += [s for operand in node.operands for s in operand.elements.sources()]
    return [found[index] for index in sorted(found)]


def _casts(graph: LayerGraph, layer: Layer) -> str:
    nodes = _between(graph, layer)
    passed = {s for node in nodes for s in (*node.outputs, *(s for o in node.operands for s in o.elements.sources()))}
    passed |= set(layer.operand.sources())
    return next((kind for kind, _, sources in graph.trace.copies if passed & set(sources) and kind != "to float64"), "")


def _difference(ours: list[Node], theirs: list[Node], where: str) -> str:
    own, their = [_word(node) for node in ours], [_word(node) for node in theirs]
    if sorted(own) == sorted(their):
        return ""
    missing, extra = list(their), list(own)
    for word in own:
        if word in missing:
            missing.remove(word)
            extra.remove(word)
    if missing and not extra:
        return f"{', '.join(missing)} missing {where}"
    if extra and not missing:
        return f"{', '.join(extra)} added {where}"
    return f"{', '.join(extra)} instead of {', '.join(missing)} {where}"


def _word(node: Node) -> str:
    activation = activation_name(node)
    if activation:
        return activation
    numbers = [str(a) for a in node.args if isinstance(a, int | float | list | tuple) and not _holds_operand(a)]
    word = WORDS.get(node.op, node.op)
    if node.op in ("add", "sub") and len(node.operands) == 2:
        return "residual addition" if node.op == "add" else word
    return f"{word} {' '.join(numbers)}".strip()


def _holds_operand(argument: Any) -> bool:
    return isinstance(argument, list | tuple) and any(isinstance(a, Operand) for a in argument)
