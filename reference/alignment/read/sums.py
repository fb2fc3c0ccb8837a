"""One layer written as a sum of several products; class tokens, and positions kept in several pieces."""

from __future__ import annotations

import torch

from reference.alignment.graph.dataflow import Flow
from reference.alignment.graph.elements import Elements, from_codes, source_of
from reference.alignment.graph.trace import Node
from reference.alignment.read.layer import Layer, as_vector
from reference.alignment.read.reading import Reading


def recognise_summand(node: Node, reading: Reading) -> Layer | None:
    """The layer that a further summand joins, where each multiplies by its own piece of one state tensor."""
    if node.op != "add" or len(node.operands) != 2 or node.kwargs:
        return None
    flow = reading.flow
    sides = [operand.elements for operand in node.operands]
    found = [reading.layer_behind(side)[0] for side in sides if flow.is_dynamic(side)]
    owners = [layer for layer in found if layer is not None]
    if not owners or len(owners) < len(found):
        return None
    pieces = [_piece_of(layer, flow) for layer in owners]
    own = [piece for piece in pieces if piece is not None]
    if len(own) < len(pieces):
        return None
    # Where a shift meets nothing but padding, its product is a constant's with the state.
    still = [leaf for side in sides if not flow.is_dynamic(side) for leaf in flow.leaves(side)]
    others = [piece for layer in owners[1:] for piece in layer.pieces or own[1:]] + still
    if not others or not all(_is_piece(e, flow) and e.sources() == own[0].sources() for e in (*own, *others)):
        return None
    first = owners[0]
    first.pieces = [*(first.pieces or [own[0]]), *others]
    for layer in owners[1:]:
        reading.layers.remove(layer)
        first.roles = {**layer.roles, **first.roles}
        reading.owner.pop(layer.output, None)
    reading.extend(first, node)
    return first


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


def _piece_of(layer: Layer, flow: Flow) -> Elements | None:
    """The part of a state tensor that ``layer`` alone multiplies by; None where it is no such summand."""
    if layer.pieces:
        return layer.pieces[0]
    if layer.kind == "affine" and [node.op for node in layer.chain] == ["mul"]:
        found = [o.elements for o in layer.chain[0].operands if flow.is_state(o.elements)]
    elif layer.kind in ("linear", "convolution"):
        found = [layer.roles["weight"]] if "weight" in layer.roles else []
    else:
        return None
    return found[0] if len(found) == 1 and _is_piece(found[0], flow) else None


def _is_piece(elements: Elements, flow: Flow) -> bool:
    """Whether these are some, not all, elements of one matrix or kernel."""
    sources = elements.sources()
    if len(sources) != 1 or not flow.is_state(elements):
        return False
    tensor = flow.trace.sources[sources[0]]
    return len(tensor.names) == 1 and len(tensor.size) > 1 and elements.numel < _count(tensor.size)


def _count(size: tuple[int, ...]) -> int:
    return int(torch.Size(size).numel())


def read_tokens(node: Node, reading: Reading) -> None:
    """Add a layer for each state tensor that stands beside activations in an operand: a class token."""
    for operand in node.operands:
        elements = operand.elements
        sources = elements.sources()
        if len(sources) < 2 or not reading.flow.is_dynamic(elements):
            continue
        assert elements.table is not None  # more than one source
        for source in sources:
            if reading.trace.sources[source].dynamic or source in reading.tokens:
                continue
            codes = elements.table[source_of(elements.table) == source]
            unique = from_codes(torch.tensor(list(dict.fromkeys(codes.tolist())), dtype=torch.int64))
            leaves = [unique] if reading.flow.is_state(unique) else reading.flow.leaves(unique)
            roles = {"weight" if i == 0 else f"weight_{i}": as_vector(leaf) for i, leaf in enumerate(leaves)}
            reading.tokens[source] = reading.add("token", roles, node, unique, output=source)


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
