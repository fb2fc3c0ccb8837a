"""Pairs the layers of two graphs by structure first, then by order; names are not used."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable

from reference.alignment.read.layer import Layer, LayerGraph

Pairs = dict[int, int]
"""Subject's layer number -> reference's layer number."""


class _Sides:
    """One graph with the lookups that matching needs."""

    def __init__(self, graph: LayerGraph) -> None:
        self.layers = {layer.number: layer for layer in graph.layers}
        self.after: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for layer in graph.layers:
            for number, port in layer.before:
                self.after[number].append((layer.number, port))
        self.depth: dict[int, int] = {}
        for number in self.order():
            before = [self.depth[n] for n, _ in self.layers[number].before if n in self.depth]
            self.depth[number] = 1 + max(before, default=0)

    def order(self) -> list[int]:
        """Layer numbers so that each comes after those before it."""
        done: dict[int, None] = {}
        stack = [(number, False) for number in reversed(list(self.layers))]
        entered: set[int] = set()
        while stack:
            number, expanded = stack.pop()
            if expanded:
                done[number] = None
            elif number not in entered:
                entered.add(number)
                stack.append((number, True))
                stack += [(n, False) for n, _ in sorted(self.layers[number].before) if n in self.layers]
        return list(done)


def match_layers(subject: LayerGraph, reference: LayerGraph, pinned: Pairs | None = None) -> Pairs:
    """Pair the layers of two graphs of the same architecture, one of which may be faulty.

    First, layers whose whole past and future agree; then those whose past agrees (before a fault) or whose future does
    (after it); then the best common order; then, in order, layers of the same kind and shape; then of the same number
    of elements. ``pinned`` pairs are kept.
    """
    ours, theirs = _Sides(subject), _Sides(reference)
    pairs: Pairs = dict(pinned or {})
    past, future = (_signatures(ours), _signatures(theirs))
    _pair_unique(pairs, ours, theirs, lambda s, n: (past if s is ours else future)[n])
    _pair_unique(pairs, ours, theirs, lambda s, n: (past if s is ours else future)[n][0])
    _pair_unique(pairs, ours, theirs, lambda s, n: (past if s is ours else future)[n][1])
    _pair_norms(pairs, ours, theirs)
    _pair_in_gaps(pairs, ours, theirs)
    _pair_in_order(pairs, ours, theirs, lambda layer: (layer.kind, layer.shape, layer.part))
    _pair_in_order(pairs, ours, theirs, lambda layer: (layer.kind, layer.shape))
    _pair_in_order(pairs, ours, theirs, lambda layer: tuple(sorted(_element_counts(layer))))
    return pairs


def _element_counts(layer: Layer) -> list[tuple[str, int]]:
    return [(role, elements.numel) for role, elements in layer.roles.items()]


def _signatures(side: _Sides) -> dict[int, tuple[Hashable, Hashable]]:
    """Hashes of all that leads to each layer and of all that it leads to (Weisfeiler and Leman)."""
    order = side.order()
    past: dict[int, int] = {}
    for number in order:
        layer = side.layers[number]
        before = Counter((port, past[n]) for n, port in layer.before if n in past)
        past[number] = hash((layer.kind, layer.part, layer.shape, frozenset(before.items())))
    future: dict[int, int] = {}
    for number in reversed(order):
        layer = side.layers[number]
        after = Counter((port, future[n]) for n, port in side.after[number] if n in future)
        future[number] = hash((layer.kind, layer.part, layer.shape, frozenset(after.items())))
    return {number: (past[number], future[number]) for number in order}


def _pair_unique(pairs: Pairs, ours: _Sides, theirs: _Sides, key: Callable[[_Sides, int], Hashable]) -> None:
    """Pair layers in execution order where their key occurs equally often on both sides."""
    left, right = _open(pairs, ours, theirs)
    mine, other = _grouped(left, lambda n: key(ours, n)), _grouped(right, lambda n: key(theirs, n))
    for name, numbers in mine.items():
        matches = other.get(name, [])
        if len(matches) == len(numbers):
            pairs.update(zip(numbers, matches, strict=True))


def _pair_norms(pairs: Pairs, ours: _Sides, theirs: _Sides) -> None:
    """Pair LayerNorms one by one where both sides have as many: pre-norm and post-norm place them differently."""
    left, right = _open(pairs, ours, theirs)
    mine = [n for n in left if ours.layers[n].kind == "layer_norm"]
    other = [n for n in right if theirs.layers[n].kind == "layer_norm"]
    if len(mine) == len(other) and all(
        ours.layers[a].shape == theirs.layers[b].shape for a, b in zip(mine, other, strict=True)
    ):
        pairs.update(zip(mine, other, strict=True))


def _pair_in_gaps(pairs: Pairs, ours: _Sides, theirs: _Sides) -> None:
    """Pair the rest by the best common order (dynamic programming over kind, shape and the layers before)."""
    left, right = _open(pairs, ours, theirs)
    left.sort(key=lambda n: (ours.depth[n], n))
    right.sort(key=lambda n: (theirs.depth[n], n))
    score = [[0.0] * (len(right) + 1) for _ in range(len(left) + 1)]
    gain: dict[tuple[int, int], float] = {}
    for i in range(len(left) - 1, -1, -1):
        for j in range(len(right) - 1, -1, -1):
            worth = _likeness(ours, left[i], theirs, right[j], pairs)
            gain[i, j] = worth
            score[i][j] = max(score[i + 1][j], score[i][j + 1], worth + score[i + 1][j + 1] if worth else 0.0)
    i = j = 0
    while i < len(left) and j < len(right):
        if gain[i, j] and score[i][j] == gain[i, j] + score[i + 1][j + 1]:
            pairs[left[i]] = right[j]
            i, j = i + 1, j + 1
        elif score[i][j] == score[i + 1][j]:
            i += 1
        else:
            j += 1


def _likeness(ours: _Sides, mine: int, theirs: _Sides, other: int, pairs: Pairs) -> float:
    left, right = ours.layers[mine], theirs.layers[other]
    if (left.kind, left.shape, left.part) != (right.kind, right.shape, right.part):
        return 0.0
    neighbours = [(n, p) for n, p in left.before if (pairs.get(n), p) in right.before]
    hyper = len([key for key, value in right.hyper.items() if left.hyper.get(key) == value])
    return 1.0 + 0.1 * len(neighbours) / (1 + len(right.before)) + 0.01 * hyper


def _pair_in_order(pairs: Pairs, ours: _Sides, theirs: _Sides, key: Callable[[Layer], Hashable]) -> None:
    left, right = _open(pairs, ours, theirs)
    mine = _grouped(left, lambda n: key(ours.layers[n]))
    other = _grouped(right, lambda n: key(theirs.layers[n]))
    for name, numbers in mine.items():
        pairs.update(zip(numbers, other.get(name, []), strict=False))


def _open(pairs: Pairs, ours: _Sides, theirs: _Sides) -> tuple[list[int], list[int]]:
    taken = set(pairs.values())
    return [n for n in ours.layers if n not in pairs], [n for n in theirs.layers if n not in taken]


def _grouped(numbers: list[int], key: Callable[[int], Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for number in numbers:
        groups[key(number)].append(number)
    return groups
