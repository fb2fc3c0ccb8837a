"""Attention found in a trace, fused or written out, and its projections split into query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reference.dataflow import Flow, coordinates
from reference.provenance import SHIFT, Elements, from_codes, position_of, source_of
from reference.trace import Node

if TYPE_CHECKING:
    from reference.layers import Layer

SOFTMAXES = ("_softmax", "_safe_softmax")


class AttentionFinder:
    """Recognises softmax(q k^T) v while a trace is read, then splits the projections that feed it."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.parts: dict[int, dict[str, Elements]] = {}
        """Layer number -> ``q``, ``k``, ``v``, each (batch x heads, tokens, width)."""

    def fused(self, node: Node) -> tuple[dict[str, Elements], dict[str, Any]]:
        """(parts, hyper-parameters) of a fused attention operation on (batch, heads, tokens, width)."""
        q, k, v = (node.args[i].elements for i in range(3))
        schema = [argument.name for argument in node.function._schema.arguments]
        given = dict(zip(schema, node.args, strict=False)) | node.kwargs
        width = q.size[-1]
        hyper = {
            "heads": q.size[-3] if len(q.size) > 3 else 1,
            "scale": float(given.get("scale") or width**-0.5),
            "mask": "causal" if given.get("is_causal") else "given" if given.get("attn_mask") is not None else "none",
        }
        return {"q": q, "k": k, "v": v}, hyper

    def product(self, node: Node) -> tuple[dict[str, Elements], dict[str, Any]] | None:
        """The same for the second product of attention written out; None for any other product."""
        arguments = [a.elements for a in node.args[1:] if hasattr(a, "elements")] if node.op == "baddbmm" else [
            a.elements for a in node.args if hasattr(a, "elements")]  # fmt: skip
        if node.op not in ("bmm", "mm", "baddbmm") or not all(self.flow.is_dynamic(a) for a in arguments):
            return None
        for place in (0, 1):
            softmax = self._back(arguments[place], SOFTMAXES)
            if softmax is None:
                continue
            values = _batched(arguments[1 - place])
            v = values if place == 0 else _swap(values)
            scores = self._back(softmax.operands[0].elements, ("bmm", "mm", "baddbmm"))
            if scores is None:
                return None
            q, k = self._query_and_key(scores, softmax)
            parts = {"q": q, "k": k, "v": v}
            return parts, {"heads": self._heads(q), "scale": self._scale(softmax, scores), "mask": self._mask(softmax)}
        return None

    def _back(self, elements: Elements, wanted: tuple[str, ...]) -> Node | None:
        """The operation called one of ``wanted`` behind elementwise operations."""
        while True:
            sources = [s for s in elements.sources() if self.flow.trace.sources[s].dynamic]
            node = self.flow.trace.node_of(sources[0]) if len(sources) == 1 else None
            if node is None or node.op in wanted:
                return node
            before = self.flow.through(node)
            if before is None:
                return None
            elements = before

    def _query_and_key(self, scores: Node, softmax: Node) -> tuple[Elements, Elements]:
        """Both sides of the first product as (batch x heads, tokens, width); the softmax runs over the keys."""
        pair = [a.elements for a in scores.args if hasattr(a, "elements")][-2:]
        left, right = _batched(pair[0]), _swap(_batched(pair[1]))
        scored = softmax.operands[0].elements
        dim = int(softmax.args[1]) % len(scored.size)
        corner = [torch.zeros(2, dtype=torch.int64) for _ in scored.size]
        corner[dim] = torch.tensor([0, scored.size[dim] - 1])
        from reference.dataflow import codes_at

        codes = codes_at(scored, corner)
        for _ in range(8):  # to the product itself, whose rows and columns are known
            node = self.flow.trace.node_of(int(source_of(codes)[0]))
            if node is scores or node is None:
                break
            before = self.flow.through(node)
            if before is None:
                break
            codes = codes_at(before, coordinates(self.flow.trace.sources[node.output], position_of(codes)))
        index = coordinates(self.flow.trace.sources[scores.output], position_of(codes))
        along_columns = int(index[-1][0]) != int(index[-1][1])
        return (left, right) if along_columns else (right, left)

    def _heads(self, q: Elements) -> int:
        _, groups = self._rows(q)
        return groups

    def _rows(self, part: Elements) -> tuple[Tensor, int]:
        """(codes of the first token of the first sample, shaped (heads, width), traced to their start; heads)."""
        if len(part.size) == 4:
            codes = self.flow.resolve(part.select(0, 0).select(1, 0).codes())
            return codes, codes.shape[0]
        firsts = self.flow.resolve(part.select(1, 0).codes())  # (batch x heads, width)
        start = self._token(firsts[:, 0])
        mine = (start == start[0]).nonzero().reshape(-1)
        return firsts[mine], len(mine)

    def _token(self, codes: Tensor) -> Tensor:
        """Which row of the projection's result each code lies in."""
        source = self.flow.trace.sources[int(source_of(codes)[0])]
        index = coordinates(source, position_of(codes))
        if len(source.size) == 2:
            return index[0]
        if len(source.size) == 3 and source.size[0] > 1 and len(torch.unique(index[2])) == 1:
            return index[0] * 0  # one matrix for each head
        row = torch.zeros_like(codes)
        for length, i in zip(source.size[:-1], index[:-1], strict=True):
            row = row * length + i
        return row

    def _scale(self, softmax: Node, scores: Node) -> float | None:
        """Product of the constant factors between projections and softmax."""
        scale = 1.0
        starts = [softmax.operands[0].elements, *[a.elements for a in scores.args if hasattr(a, "elements")][-2:]]
        for start in starts:
            elements: Elements | None = start
            while elements is not None:
                sources = [s for s in elements.sources() if self.flow.trace.sources[s].dynamic]
                node = self.flow.trace.node_of(sources[0]) if len(sources) == 1 else None
                if node is None or node is scores:
                    break
                factor = _factor(node)
                if node.op in ("mul", "div") and factor is not None:
                    scale *= factor if node.op == "mul" else 1 / factor
                elements = self.flow.through(node)
        if scores.op == "baddbmm":
            scale *= float(scores.kwargs.get("alpha", 1.0))
        return scale

    def _mask(self, softmax: Node) -> str:
        sources = softmax.operands[0].elements.sources()
        node = self.flow.trace.node_of(sources[0]) if sources else None
        return "given" if node is not None and node.op in ("masked_fill", "add", "where") else "none"

    def split(self, layers: list[Layer], main: Mapping[int, Layer]) -> list[Layer]:
        """``layers`` with each projection replaced by the parts of it that are query, key or value."""
        wanted: dict[int, list[tuple[int, str, list[int]]]] = {}
        for number, parts in self.parts.items():
            for port, part in parts.items():
                codes, heads = self._rows(part)
                sources = torch.unique(source_of(codes)).tolist()
                layer = main.get(sources[0]) if len(sources) == 1 else None
                if layer is None:
                    continue
                features = _features(codes, layer, self.flow)
                if len(set(features)) == len(features) and max(features) < layer.shape[0]:
                    wanted.setdefault(layer.number, []).append((number, port, features))
                layers[number].hyper["heads"] = heads
        result: list[Layer] = []
        number = len(layers)
        for layer in layers:
            if layer.number not in wanted:
                result.append(layer)
                continue
            for attention, port, features in wanted[layer.number]:
                roles = {role: elements.take(0, features) for role, elements in layer.roles.items()}
                part_layer = replace(layer, number=number, roles={r: e for r, e in roles.items() if e.sources()},
                                     part=port)  # fmt: skip
                number += 1
                result.append(part_layer)
                target = layers[attention]
                target.before = frozenset(
                    (part_layer.number, p) if n == layer.number and p == port else (n, p) for n, p in target.before
                )
        return result


def _features(codes: Tensor, layer: Layer, flow: Flow) -> list[int]:
    """The projection's output features at ``codes`` (heads, width)."""
    source = flow.trace.sources[int(codes.reshape(-1)[0]) >> SHIFT]
    index = coordinates(source, position_of(codes.reshape(-1)))
    feature = index[layer.feature_dim]
    if len(source.size) == 3 and layer.shape[0] > source.size[layer.feature_dim]:
        feature = feature + source.size[layer.feature_dim] * index[0]  # one matrix for each head
    return [int(f) for f in feature.tolist()]


def _batched(elements: Elements) -> Elements:
    return elements if len(elements.size) == 3 else elements.reshape(1, *elements.size)


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
