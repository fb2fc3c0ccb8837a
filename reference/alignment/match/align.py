"""Pairs the elements of two models' parameters and buffers, whatever their names and layouts.

Both models run once; what their operations do with the state decides: see ``ALGORITHM.md`` in `reference.alignment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reference.alignment.graph.elements import Elements
from reference.alignment.graph.trace import Trace, named_state, trace
from reference.alignment.match.element_map import ElementMap
from reference.alignment.match.joined_layers import cut_joined_layers
from reference.alignment.match.matching import match_layers
from reference.alignment.match.names import activation_after, display_kind, layer_name
from reference.alignment.read.layer import Layer, LayerGraph
from reference.alignment.read.reader import read_layers


class AlignmentError(ValueError):
    """The models don't have the same parameters; the message lists what only one of them has.

    ``alignment`` is the partial alignment, for a table; None where the models could not be compared.
    """

    def __init__(self, message: str, alignment: Alignment | None = None) -> None:
        super().__init__(message)
        self.alignment = alignment


@dataclass(frozen=True, kw_only=True)
class AlignedLayer:
    """One row of the table that shows two models side by side; a side that lacks the layer is empty."""

    kind: str
    subject: str
    reference: str
    subject_shape: tuple[int, ...] = ()
    reference_shape: tuple[int, ...] = ()
    subject_hyper: Mapping[str, Any] = field(default_factory=dict)
    reference_hyper: Mapping[str, Any] = field(default_factory=dict)


class Alignment:
    """The correspondence between a subject's and a reference's parameters and buffers.

    ``layers`` are in the reference's execution order. ``pairs`` are the layers of both graphs that belong together.
    """

    def __init__(
        self, subject: LayerGraph, reference: LayerGraph, pairs: list[tuple[Layer, Layer]], element_map: ElementMap
    ) -> None:
        self.subject_graph = subject
        self.reference_graph = reference
        self.pairs = pairs
        self._element_map = element_map
        self.layers = _table(subject, reference, pairs)
        self.unmatched_subject, self.unmatched_reference = element_map.unmatched()

    def to_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Subject-named tensors (values, gradients, statistics) as the reference names and shapes them.

        Names that are no state of the subject are ignored; a reference tensor is left out where a piece of it is not
        among ``tensors``. Raises ValueError where a tensor's shape differs from that of the state of its name.
        """
        return self._element_map.apply(tensors, forward=True)

    def to_subject(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `to_reference`."""
        return self._element_map.apply(tensors, forward=False)

    def subject_names(self, reference_name: str) -> tuple[str, ...]:
        """The subject's tensors that hold the elements of the reference's ``reference_name``."""
        return self._element_map.counterparts(reference_name)


def align(
    subject: nn.Module, reference: nn.Module, sample: Tensor, *, state_dict_map: Mapping[str, str] | None = None
) -> Alignment:
    """Align two models of one architecture by running both on ``sample`` (batch, channels, height, width).

    ``state_dict_map`` (reference name -> subject name) fixes pairs that structure leaves open. Both models are
    restored. Raises AlignmentError where parameters have no counterpart; exceptions of forward are passed on.
    """
    for name, model in (("subject", subject), ("reference", reference)):
        lazy = [n for n, p in model.named_parameters() if is_lazy(p)]
        if lazy:
            raise AlignmentError(f"the {name}'s {lazy[0]} has no shape yet: run the model once before aligning it")
    try:
        return align_traces(trace(subject, sample), trace(reference, sample), state_dict_map=state_dict_map)
    except AlignmentError as error:
        try:  # a norm that is folded into its convolution in eval mode shows only in train mode
            ours, theirs = trace(subject, sample, train=True), trace(reference, sample, train=True)
            return align_traces(ours, theirs, state_dict_map=state_dict_map)
        except Exception:  # eval mode shows the fault more plainly, whatever train mode raises
            raise error from None


def align_traces(subject: Trace, reference: Trace, *, state_dict_map: Mapping[str, str] | None = None) -> Alignment:
    """As `align`, for two models that have been traced already."""
    ours, theirs = read_layers(subject), read_layers(reference)
    cut_joined_layers(ours, theirs)
    pinned = _pinned(ours, theirs, state_dict_map or {})
    matched = match_layers(ours, theirs, pinned)
    mine, other = ({layer.number: layer for layer in graph.layers} for graph in (ours, theirs))
    pairs = [(mine[a], other[b]) for a, b in matched.items()]
    place = {layer.number: i for i, layer in enumerate(theirs.layers)}
    pairs.sort(key=lambda pair: place[pair[1].number])
    element_map = ElementMap(subject, reference)
    for left, right in pairs:
        for role, elements in right.roles.items():
            own = left.roles.get(role)
            if own is not None and own.numel == elements.numel:
                element_map.add(_fitted(own, elements), elements)
    element_map.add_named(state_dict_map or {})
    element_map.add_left_over()
    alignment = Alignment(ours, theirs, pairs, element_map)
    if alignment.unmatched_subject or alignment.unmatched_reference:
        raise AlignmentError(_describe(alignment, subject, reference), alignment)
    return alignment


def _fitted(elements: Elements, wanted: Elements) -> Elements:
    return elements if elements.size == wanted.size else elements.reshape(*wanted.size)


def _pinned(subject: LayerGraph, reference: LayerGraph, names: Mapping[str, str]) -> dict[int, int]:
    """Layers that ``names`` pair."""
    known, theirs = named_state(subject.trace.model), named_state(reference.trace.model)
    for name, own in names.items():
        if name not in theirs or own not in known:
            missing = f"the reference has no {name!r}" if name not in theirs else f"the subject has no {own!r}"
            raise AlignmentError(f"state_dict_map pairs {name!r} with {own!r}, but {missing}")
    mine, other = _holders(subject), _holders(reference)
    return {
        mine[own][0]: other[name][0]
        for name, own in names.items()
        if len(mine.get(own, ())) == 1 == len(other.get(name, ()))
    }


def _holders(graph: LayerGraph) -> dict[str, list[int]]:
    """The layers that use each state tensor."""
    found: dict[str, list[int]] = {}
    for layer in graph.layers:
        names = {n for e in layer.roles.values() for s in e.sources() for n in graph.trace.sources[s].names}
        for name in names:
            found.setdefault(name, []).append(layer.number)
    return found


def _table(subject: LayerGraph, reference: LayerGraph, pairs: list[tuple[Layer, Layer]]) -> tuple[AlignedLayer, ...]:
    partner = {right.number: left for left, right in pairs}
    rows = []
    for right in reference.layers:
        left = partner.get(right.number)
        rows.append(_row(subject, left, reference, right))
    matched = {left.number for left, _ in pairs}
    rows += [_row(subject, layer, reference, None) for layer in subject.layers if layer.number not in matched]
    return tuple(rows)


def _row(subject: LayerGraph, left: Layer | None, reference: LayerGraph, right: Layer | None) -> AlignedLayer:
    described = right or left
    assert described is not None  # a row has at least one side
    return AlignedLayer(
        kind=display_kind(described),
        subject=layer_name(left, subject) if left else "",
        reference=layer_name(right, reference) if right else "",
        subject_shape=left.shape if left else (),
        reference_shape=right.shape if right else (),
        subject_hyper=_hyper(left, subject) if left else {},
        reference_hyper=_hyper(right, reference) if right else {},
    )


def _hyper(layer: Layer, graph: LayerGraph) -> dict[str, Any]:
    activation = activation_after(layer, graph)
    return layer.hyper | ({"activation": activation} if activation else {})


def _describe(alignment: Alignment, subject: Trace, reference: Trace) -> str:
    lines = ["the subject's parameters don't correspond to the reference's."]
    sides = (
        ("subject", alignment.unmatched_subject, subject, "reference"),
        ("reference", alignment.unmatched_reference, reference, "subject"),
    )
    used = _used_names(alignment.subject_graph)
    for side, names, traced, lacking in sides:
        idle = [name for name in names if side == "subject" and name not in used]
        for title, group in (
            (f"Only the {side} has (no counterpart in the {lacking})", [n for n in names if n not in idle]),
            (f"Used by no operation of the {side}'s forward pass", idle),
        ):
            if group:
                shown = [f"{name} {tuple(traced.state[name].shape)}" for name in group[:12]]
                shown += [f"and {len(group) - 12} more"] if len(group) > 12 else []
                lines.append(f"{title}: {', '.join(shown)}.")
    lines.append(
        "If they do correspond, let the subject's module define `<architecture>_state_dict_map()`, "
        "returning {reference name: subject name}."
    )
    return "\n".join(lines)


def _used_names(graph: LayerGraph) -> set[str]:
    used: set[str] = set()
    for node in graph.trace.nodes:
        for operand in node.operands:
            for source in operand.elements.sources():
                used |= set(graph.trace.sources[source].names)
    return used
