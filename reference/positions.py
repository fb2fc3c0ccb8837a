"""Position embeddings that are added to the class token and to the patches apart."""

from __future__ import annotations

import torch

from reference.layer import Layer
from reference.provenance import from_codes


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
