"""Cuts a linear map that holds two of the reference's, such as class scores and box offsets in one layer.

The rows are told apart by the use of their features: one part goes through a softmax, the other doesn't.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch

from reference.alignment.graph.dataflow import coordinates
from reference.alignment.graph.elements import position_of, source_of
from reference.alignment.read.layer import Layer, LayerGraph


def cut_joined_layers(subject: LayerGraph, reference: LayerGraph) -> None:
    """Replace each linear layer of ``subject`` that is as large as two of the reference's with one input by two parts.

    Nothing is changed where the reference has such a layer too, or where the parts can't be told apart.
    """
    theirs = _linear(reference)
    known = {layer.shape for layer in theirs}
    groups: dict[object, list[Layer]] = defaultdict(list)
    for layer in theirs:
        groups[layer.before, layer.operand.sources(), layer.shape[1:]].append(layer)
    waiting = [group for group in groups.values() if len(group) == 2]
    number = max((layer.number for layer in subject.layers), default=0)
    cut: dict[int, list[Layer]] = {}
    for layer in _linear(subject):
        fits = [g for g in waiting if (g[0].shape[0] + g[1].shape[0], *g[0].shape[1:]) == layer.shape]
        if layer.shape in known or not fits:
            continue
        rows = _rows(subject, layer, fits[0][0].shape[0], fits[0][1].shape[0])
        if rows is None:
            continue
        waiting.remove(fits[0])
        cut[layer.number] = []
        for chosen in rows:
            number += 1
            roles = {role: elements.take(0, chosen) for role, elements in layer.roles.items()}
            cut[layer.number].append(replace(layer, number=number, roles=roles, beside=True))
    if cut:
        subject.layers = [part for layer in subject.layers for part in cut.get(layer.number, [layer])]
        for layer in subject.layers:
            before = ((part.number, port) for n, port in layer.before for part in cut.get(n, ()))
            layer.before = frozenset(link for link in layer.before if link[0] not in cut) | frozenset(before)


def _linear(graph: LayerGraph) -> list[Layer]:
    return [layer for layer in graph.layers if layer.kind == "linear" and "weight" in layer.roles and not layer.part]


def _rows(graph: LayerGraph, layer: Layer, first: int, second: int) -> tuple[list[int], list[int]] | None:
    """The rows of a part of ``first`` and one of ``second``; None where what becomes of them leaves it open."""
    source = graph.trace.sources[layer.output]
    fates: dict[int, set[tuple[int, int]]] = {feature: set() for feature in range(layer.shape[0])}
    for node in graph.trace.nodes:
        for place, operand in enumerate(node.operands):
            if layer.output not in operand.elements.sources():
                continue
            codes = operand.elements.codes()
            positions = position_of(codes[source_of(codes) == layer.output])
            for feature in torch.unique(coordinates(source, positions)[layer.feature_dim]).tolist():
                if feature in fates:
                    fates[feature].add((node.index, place))
    alike: dict[frozenset[tuple[int, int]], list[int]] = defaultdict(list)
    for feature, fate in fates.items():
        alike[frozenset(fate)].append(feature)
    for features in alike.values() if first != second else ():
        rest = sorted(set(fates) - set(features))
        if len(features) == first:
            return features, rest
        if len(features) == second:
            return rest, features
    return None
