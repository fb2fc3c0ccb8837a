"""One layer that is written as a sum of several products, or positions as one table of several pieces."""

from __future__ import annotations

import torch

from reference.alignment.graph.dataflow import Flow
from reference.alignment.graph.elements import Elements, from_codes
from reference.alignment.read.layer import Layer


def piece_of(layer: Layer, flow: Flow) -> Elements | None:
    """The part of a state tensor that ``layer`` alone multiplies by; None where it is no such summand."""
    if layer.pieces:
        return layer.pieces[0]
    if layer.kind == "affine" and [node.op for node in layer.chain] == ["mul"]:
        found = [o.elements for o in layer.chain[0].operands if flow.is_state(o.elements)]
    elif layer.kind in ("linear", "convolution"):
        found = [layer.roles["weight"]] if "weight" in layer.roles else []
    else:
        return None
    return found[0] if len(found) == 1 and is_piece(found[0], flow) else None


def is_piece(elements: Elements, flow: Flow) -> bool:
    """Whether these are some, not all, elements of one matrix or kernel."""
    sources = elements.sources()
    if len(sources) != 1 or not flow.is_state(elements):
        return False
    tensor = flow.trace.sources[sources[0]]
    return len(tensor.names) == 1 and len(tensor.size) > 1 and elements.numel < _count(tensor.size)


def join(first: Layer, pieces: list[Elements], own: Elements) -> None:
    """Let ``first``, whose own piece is ``own``, stand for the sum with other pieces of the same tensor."""
    first.pieces = [*(first.pieces or [own]), *pieces]


def read_whole(layer: Layer, flow: Flow) -> None:
    """Give a sum whose pieces make up all of a tensor that tensor as its weight, as it is stored."""
    tensor = flow.trace.sources[layer.pieces[0].sources()[0]]
    used = torch.unique(torch.cat([piece.codes().reshape(-1) for piece in layer.pieces]))
    if len(used) != _count(tensor.size):
        return
    whole = Elements(size=tensor.size, source=tensor.number, stride=tensor.stride, offset=tensor.offset)
    if len(tensor.size) == 2:
        width = layer.roles["weight"].size[0] if "weight" in layer.roles else 0
        layer.kind, layer.chain = "linear", []
        layer.roles["weight"] = whole if tensor.size[0] == width else whole.transpose()
    elif len(tensor.size) == 4:
        layer.kind, layer.chain, layer.hyper = "convolution", [], {"kernel": tensor.size[2:]}
        layer.roles["weight"] = whole


def _count(size: tuple[int, ...]) -> int:
    return int(torch.Size(size).numel())


def join_positions(layers: list[Layer]) -> None:
    """Read ``cat(token + position[:1], patches + position[1:])`` as ``cat(token, patches) + position``.

    The token then consists of the sum of two states. The one that shares its storage with the patches' position
    embedding is the position (the last one where none does: in a sum either may be either).
    """
    for token in [layer for layer in layers if layer.kind == "token" and len(layer.roles) == 2]:
        for layer in layers:
            if layer.kind == "embedding" and len(layer.shape) == 3 and layer.shape[:1] == token.shape:
                grid = layer.roles["weight"].codes()  # kept as an image is, and added before it is cut into tokens
                layer.roles = {"weight": from_codes(grid.flatten(1).t())}
        rest = [e for e in layers if e.kind == "embedding" and len(e.shape) == 2 and e.shape[1:] == token.shape]
        if not rest:
            continue
        embedding = rest[0]
        sources = embedding.roles["weight"].sources()
        roles = sorted(token.roles, key=lambda role: (token.roles[role].sources() != sources, role == "weight"))
        position, own = token.roles[roles[0]], token.roles[roles[1]]
        rows = torch.cat([position.codes()[None], embedding.roles["weight"].codes()])
        embedding.roles = {"weight": from_codes(rows)}
        token.roles = {"weight": own}
        link = (token.number, "")
        embedding.before |= {link}
        for layer in layers:
            if (embedding.number, "") in layer.before:
                layer.before -= {link}
