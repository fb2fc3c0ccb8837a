"""The first layer at which a subject differs from a reference with the same weights, and the likely cause."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from reference.alignment.graph.elements import Elements
from reference.alignment.graph.trace import trace
from reference.alignment.graph.values import Values
from reference.alignment.locate.agreement import Agreement, compare
from reference.alignment.locate.causes import Place, cause_at_input, cause_at_output, momentum_cause
from reference.alignment.match.align import Alignment
from reference.alignment.match.joined_layers import cut_joined_layers
from reference.alignment.match.names import layer_name, stage_name
from reference.alignment.read.layer import Layer, LayerGraph
from reference.alignment.read.reader import read_layers

ROLE_ORDER = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Deviation:
    """The first aligned layer that differs."""

    subject: str
    """The layer's name in the subject."""
    reference: str
    """Its name in the reference."""
    stage: str
    """The reference's stage: ``layer3``, ``features.4``."""
    error: float
    """Norm of the difference over the reference's norm."""
    error_before: float
    """The largest such error among the results of the layers before."""
    cause: str
    """The likely cause in words; empty where the structure shows none."""


def first_deviation(
    subject: nn.Module,
    reference: nn.Module,
    alignment: Alignment,
    sample: Tensor,
    *,
    bound: float,
    train: bool = False,
) -> Deviation | None:
    """The first layer, in the reference's execution order, whose input or result differs by more than ``bound``.

    Both models hold the same weights, in float64; ``sample`` is (batch, channels, height, width). None where every
    aligned layer and the output agree. In train mode the caller controls random draws. The models are
    restored.
    """
    ours = read_layers(trace(subject, sample, train=train, keep_values=True))
    theirs = read_layers(trace(reference, sample, train=train, keep_values=True))
    cut_joined_layers(ours, theirs)
    place = Place(ours, theirs, _pairs(alignment, ours, theirs))
    search = _Search(place, bound)
    for right in theirs.layers:
        left = place.partner.get(right.number)
        found = search.at(left, right) if left is not None else None
        if found is not None:
            return found
    return search.at_the_end() or (momentum_cause_deviation(place) if train else None)


def momentum_cause_deviation(place: Place) -> Deviation | None:
    """A BatchNorm with another momentum, which changes no result of the forward pass, only its statistics."""
    for left, right, cause, error in momentum_cause(place):
        name = layer_name(right, place.reference)
        return Deviation(layer_name(left, place.subject), name, stage_name(name), error, 0.0, cause)
    return None


class _Search:
    """Compares layer by layer and keeps the agreement of those before."""

    def __init__(self, place: Place, bound: float) -> None:
        self.place = place
        self.bound = bound
        self.ours, self.theirs = Values(place.subject.trace), Values(place.reference.trace)
        self.results: dict[int, Agreement] = {}
        self.reordered = ""

    def at(self, left: Layer, right: Layer) -> Deviation | None:
        before = self._before(right)
        entering = self._compare_inputs(left, right)
        if entering is not None and not entering.holds(self.bound):
            cause = cause_at_input(self.place, left, right, self.reordered)
            return self._deviation(left, right, entering, before, cause)
        self._note_order(entering, right)
        if right.part:
            return None  # a part of a fused projection is compared where attention reads it
        if left.open or right.open or left.beside:  # one of the results lacks its bias, or holds another's too
            return None
        result = compare(self.ours.of_source(left.output), self.theirs.of_source(right.output))
        if result is None:
            return None
        if not result.holds(self.bound):
            error_before = max(before, entering.least if entering is not None else 0.0)
            return self._deviation(
                left, right, result, error_before, cause_at_output(self.place, left, right, self.reordered)
            )
        self._note_order(result, right)
        self.results[right.number] = result
        return None

    def at_the_end(self) -> Deviation | None:
        """A deviation between the last layer and the output."""
        ours, theirs = self.place.subject, self.place.reference
        result = compare(self.ours.output(), self.theirs.output())
        if result is None or result.holds(self.bound) or not theirs.layers:
            return None
        last = theirs.layers[-1]
        left = self.place.partner.get(last.number)
        name = layer_name(last, theirs)
        between = self.place.after_last(left, last) if left is not None else ""
        before = max((a.least for a in self.results.values()), default=0.0)
        own = f"after {layer_name(left, ours)}" if left is not None else "the output"
        return Deviation(own, f"after {name}", stage_name(name), result.error, before, between)

    def _compare_inputs(self, left: Layer, right: Layer) -> Agreement | None:
        if right.kind == "token":
            return None
        pairs = _ports(self.place.subject, left), _ports(self.place.reference, right)
        worst: Agreement | None = None
        for port, elements in pairs[1].items():
            if port not in pairs[0]:
                continue
            values = self.ours.of(pairs[0][port]), self.theirs.of(elements)
            # The scale may be applied to the query, the key, both or the scores.
            got, expected = (_directions(v) if port in ("q", "k") else v for v in values)
            found = compare(got, expected)
            if found is not None and (worst is None or found.error > worst.error):
                worst = found
        return worst

    def _before(self, right: Layer) -> float:
        return max((self.results[n].least for n, _ in right.before if n in self.results), default=0.0)

    def _note_order(self, agreement: Agreement | None, right: Layer) -> None:
        if agreement is not None and agreement.reordered and not self.reordered:
            self.reordered = layer_name(right, self.place.reference)

    def _deviation(self, left: Layer, right: Layer, agreement: Agreement, before: float, cause: str) -> Deviation:
        name = layer_name(right, self.place.reference)
        return Deviation(layer_name(left, self.place.subject), name, stage_name(name), agreement.error, before, cause)


def _directions(values: Tensor | None) -> Tensor | None:
    return values / (values.norm() or 1.0) if values is not None else None


def _ports(graph: LayerGraph, layer: Layer) -> dict[str, Elements]:
    return layer.ports if layer.ports else {"": layer.operand}


def _pairs(alignment: Alignment, ours: LayerGraph, theirs: LayerGraph) -> list[tuple[Layer, Layer]]:
    """The aligned layers as they appear in new traces of the same models."""
    old = _by_identity(alignment.subject_graph), _by_identity(alignment.reference_graph)
    new = _by_identity(ours), _by_identity(theirs)
    names = [{layer.number: key for key, layer in side.items()} for side in old]
    found = []
    for left, right in alignment.pairs:
        keys = names[0].get(left.number), names[1].get(right.number)
        if keys[0] in new[0] and keys[1] in new[1]:
            found.append((new[0][keys[0]], new[1][keys[1]]))
    return found


def _by_identity(graph: LayerGraph) -> dict[tuple[object, ...], Layer]:
    """Layers by the first state element that they use, which is the same in every trace of a model."""
    found: dict[tuple[object, ...], Layer] = {}
    firsts: dict[tuple[int, str], object] = {}
    for layer in graph.layers:
        role = next((r for r in ROLE_ORDER if r in layer.roles), None)
        if role is None:
            identity: object = tuple(sorted(str(firsts.get(pair)) for pair in layer.before))
        else:
            elements = layer.roles[role]
            identity = int(elements.take(0, [0]).codes().reshape(-1)[0]) if elements.size else elements.source
        firsts[layer.number, layer.part] = identity
        count = 0
        while (layer.part, identity, count) in found:
            count += 1
        found[layer.part, identity, count] = layer
    return found
