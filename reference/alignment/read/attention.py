"""Attention, fused or written out, and its projections, split into query, key and value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from reference.alignment.graph.dataflow import ELEMENTWISE, Flow, codes_at, coordinates
from reference.alignment.graph.elements import SHIFT, Elements, from_codes, position_of, source_of
from reference.alignment.graph.trace import Node
from reference.alignment.read.layer import Layer
from reference.alignment.read.linear import Contraction, read_contraction
from reference.alignment.read.reading import Reading

SOFTMAXES = ("_softmax", "_safe_softmax", "_log_softmax")


def recognise_fused_attention(node: Node, reading: Reading) -> Layer | None:
    """A fused attention operation on (batch, heads, tokens, width)."""
    if not node.op.startswith("_scaled_dot_product"):
        return None
    q, k, v = (node.args[i].elements for i in range(3))
    schema = [argument.name for argument in node.function._schema.arguments]
    given = dict(zip(schema, node.args, strict=False)) | node.kwargs
    scale = float(given.get("scale") or q.size[-1] ** -0.5)
    mask = "causal" if given.get("is_causal") else "given" if given.get("attn_mask") is not None else "none"
    return _add(node, reading, {"q": q, "k": k, "v": v}, scale, mask)


def recognise_written_attention(node: Node, reading: Reading) -> Layer | None:
    """The second product of ``softmax(q k^T) v`` written out."""
    flow = reading.flow
    second = read_contraction(node, flow)
    if second is None:
        return None
    # The weights may stand on either side; their keys are what is summed over.
    for weights, values in ((second.left, second.right), (_swap(second.right), _swap(second.left))):
        found = _scores(weights, flow)
        if found is None:
            continue
        scores, first, path, keys_are_columns = found
        q, k = (first.left, _swap(first.right)) if keys_are_columns else (_swap(first.right), first.left)
        return _add(node, reading, {"q": q, "k": k, "v": values}, _scale(scores, first, path, flow), _mask(path))
    return None


def _add(node: Node, reading: Reading, parts: dict[str, Elements], scale: float, mask: str) -> Layer:
    """A layer of attention with one port for each of query, key and value."""
    layer = reading.add("attention", {}, node, parts["v"])
    layer.before = frozenset((n, port) for port, part in parts.items() for n, _ in reading.frontier(part))
    layer.hyper = {"heads": len(_rows(parts["q"], reading.flow)), "scale": scale, "mask": mask}
    layer.ports = parts
    return layer


def _scores(weights: Elements, flow: Flow) -> tuple[Node, Contraction, list[Node], bool] | None:
    """The first product behind attention weights (batch x heads, queries, keys), if a softmax lies between.

    Gives it, the operations between, last first, and whether the keys lie on its columns.
    """
    corner = [torch.zeros(2, dtype=torch.int64) for _ in weights.size]
    corner[2] = torch.tensor([0, weights.size[2] - 1])
    codes, path = codes_at(weights, corner), list[Node]()
    while True:
        number = int(source_of(codes)[0])
        node = flow.trace.node_of(number)
        if node is None or node.output != number:
            return None
        index = coordinates(flow.trace.sources[number], position_of(codes))
        product = read_contraction(node, flow)
        if product is not None:
            exponential = any(n.op in SOFTMAXES or n.op == "exp" for n in path)
            on_columns = any(int(index[dim][0]) != int(index[dim][1]) for dim in product.columns)
            return (node, product, path, on_columns) if exponential else None
        before = _main_operand(node, flow)
        if before is None:
            return None
        path.append(node)
        codes = codes_at(before, index)


def _main_operand(node: Node, flow: Flow) -> Elements | None:
    """The operand that an elementwise operation or a softmax changes: the first of the result's size."""
    if node.op not in ELEMENTWISE and node.op not in SOFTMAXES:
        return None
    count = math.prod(flow.trace.sources[node.output].size)
    found = (o.elements for o in node.operands if flow.is_dynamic(o.elements) and o.elements.numel == count)
    return next(found, None)


def _rows(part: Elements, flow: Flow) -> Tensor:
    """Codes of the first token of the first sample, shaped (heads, width), traced to where they start."""
    first = part.select(len(part.size) - 2, 0)  # (..., width): batch and heads, in whatever dimensions
    firsts = flow.resolve(first.codes().reshape(-1, first.size[-1]))
    start = _token(firsts[:, 0], flow)
    return firsts[start == start[0]]


def _token(codes: Tensor, flow: Flow) -> Tensor:
    """Which row of the projection's result each code lies in."""
    source = flow.trace.sources[int(source_of(codes)[0])]
    index = coordinates(source, position_of(codes))
    if len(source.size) == 2:
        return index[0]
    if len(source.size) == 3 and source.size[0] > 1 and len(torch.unique(index[2])) == 1:
        return index[0] * 0  # one matrix for each head
    row = torch.zeros_like(codes)
    for length, i in zip(source.size[:-1], index[:-1], strict=True):
        row = row * length + i
    return row


def _scale(scores: Node, product: Contraction, path: list[Node], flow: Flow) -> float:
    """Product of the constant factors between the projections and the softmax."""
    nodes = list(path)
    for start in product.operands:
        elements: Elements | None = start
        while elements is not None:
            sources = elements.sources()
            node = flow.trace.node_of(sources[0]) if len(sources) == 1 else None
            elements = flow.through(node) if node is not None else None
            nodes += [node] if node is not None and elements is not None else []
    scale = float(scores.kwargs.get("alpha", 1.0)) if scores.op == "baddbmm" else 1.0
    for node in nodes:
        factor = _factor(node)
        if node.op in ("mul", "div") and factor is not None:
            scale *= factor if node.op == "mul" else 1 / factor
    return scale


def split_projections(layers: list[Layer], main: Mapping[int, Layer], flow: Flow) -> list[Layer]:
    """``layers`` with each projection of attention replaced by its query, key and value parts.

    Attention written as one operation for each head, side by side, becomes one with all heads.
    """
    number = max((layer.number for layer in layers), default=0) + 1
    replaced, absorbed = dict[int, list[Layer]](), dict[int, int]()
    for group in _groups(layers):
        target = group[0]
        absorbed |= {layer.number: target.number for layer in group[1:]}
        ports = {port: [_segment(layer.ports[port], main, flow) for layer in group] for port in ("q", "k", "v")}
        target.hyper["heads"] = sum(len(_rows(layer.ports["q"], flow)) for layer in group)
        for port, segments in ports.items():
            known = [segment for segment in segments if segment is not None]
            if len(known) < len(segments):
                continue
            part = _joined(known, number, port)
            number += 1
            replaced.setdefault(known[0][0].number, []).append(part)
            origins = {layer.number for layer, _ in known}
            for origin in origins:
                replaced.setdefault(origin, [])
            others = frozenset(link for layer in group for link in layer.before)
            kept = {(n, p) for n, p in target.before | others if p != port}
            target.before = frozenset(kept | {(part.number, port)})
    result = []
    for layer in layers:
        if layer.number in absorbed:
            continue
        layer.before = frozenset((absorbed.get(n, n), port) for n, port in layer.before)
        result += replaced.get(layer.number, [layer])
    return result


def _segment(part: Elements, main: Mapping[int, Layer], flow: Flow) -> tuple[Layer, list[int]] | None:
    """The projection that ``part`` comes from, and which of its output features it is, in order of the heads."""
    codes = _rows(part, flow)
    sources = torch.unique(source_of(codes)).tolist()
    layer = main.get(sources[0]) if len(sources) == 1 else None
    if layer is None:
        return None
    features = _features(codes, layer, flow)
    usable = len(set(features)) == len(features) and max(features) < layer.shape[0]
    return (layer, features) if usable else None


def _groups(layers: list[Layer]) -> list[list[Layer]]:
    """Attention layers, those together whose results stand side by side as the input of one linear map."""
    by_output = {layer.output: layer for layer in layers if layer.kind == "attention"}
    groups, seen = list[list[Layer]](), set[int]()
    for layer in layers:
        if len(layer.origins) > 1 and all(origin in by_output for origin in layer.origins):
            groups.append([by_output[origin] for origin in layer.origins])
            seen |= set(layer.origins)
    return groups + [[layer] for output, layer in by_output.items() if output not in seen]


def _joined(segments: list[tuple[Layer, list[int]]], number: int, port: str) -> Layer:
    """One projection from pieces of one or more."""
    first = segments[0][0]
    if all(layer is first for layer, _ in segments):
        rows = [feature for _, features in segments for feature in features]
        roles = {role: elements.take(0, rows) for role, elements in first.roles.items()}
    else:
        roles = {
            role: from_codes(torch.cat([layer.roles[role].take(0, rows).codes() for layer, rows in segments]))
            for role in first.roles
            if all(role in layer.roles for layer, _ in segments)
        }
    return replace(first, number=number, roles={r: e for r, e in roles.items() if e.sources()}, part=port)


def _features(codes: Tensor, layer: Layer, flow: Flow) -> list[int]:
    """The projection's output features at ``codes`` (heads, width)."""
    source = flow.trace.sources[int(codes.reshape(-1)[0]) >> SHIFT]
    index = coordinates(source, position_of(codes.reshape(-1)))
    feature = index[layer.feature_dim]
    if len(source.size) == 3 and layer.shape[0] > source.size[layer.feature_dim]:
        feature = feature + source.size[layer.feature_dim] * index[0]  # one matrix for each head
    return [int(f) for f in feature.tolist()]


def _mask(path: list[Node]) -> str:
    """Whether the scores are masked before the softmax."""
    return "given" if any(node.op in ("masked_fill", "add", "where") for node in path) else "none"


def _swap(elements: Elements) -> Elements:
    if elements.table is not None:
        return from_codes(elements.table.transpose(-1, -2))
    size, stride = elements.size, elements.stride
    return replace(
        elements, size=(*size[:-2], size[-1], size[-2]), stride=(*stride[:-2], stride[-1], stride[-2])
    )  # fmt: skip


def _factor(node: Node) -> float | None:
    for argument in node.args:
        if isinstance(argument, int | float):
            return float(argument)
        if getattr(argument, "constant", None) is not None and argument.constant.numel() == 1:
            return float(argument.constant)
    return None
