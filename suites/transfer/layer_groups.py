"""The layers of any network, from the input to its head, as lists of parameter names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

WITH_THE_LAYER_BEFORE = 99999
"""What timm's group matchers end an entry with that joins the layer before it."""
UNMATCHED: tuple[float, ...] = (float("inf"),)
FEW = 4
"""A network with fewer layers than this is split further."""


def find_module(model: nn.Module, head: str) -> nn.Module:
    """The part called ``head``. Raises ValueError that lists the linear layers where there is none with parameters."""
    found: nn.Module | None = dict(model.named_modules(remove_duplicate=False)).get(head) if head else None
    if found is None:
        raise ValueError(f"{type(model).__name__} has no part called {head!r}. {candidates(model)}")
    if not any(True for _ in found.parameters()):
        raise ValueError(f"{head} has no parameter left to train. {candidates(model)}")
    return found


def candidates(model: nn.Module) -> str:
    """A sentence that lists what could be the head: the linear layers, last first."""
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][::-1]
    shown = ", ".join(linear[:5]) + (f" and {len(linear) - 5} more" if len(linear) > 5 else "")
    return f"Its linear layers, last first: {shown or 'none'}"


def inside(name: str, part: str) -> bool:
    """Whether a parameter called ``name`` belongs to the module called ``part``; everything belongs to \"\"."""
    return not part or name == part or name.startswith(f"{part}.")


def layers_of(model: nn.Module, head: str, *, coarse: bool = True) -> list[list[str]]:
    """Names of all parameters, layer by layer, from the input to the head, which is the last layer.

    A network that has timm's ``group_matcher`` is grouped by it: stages where ``coarse``, else blocks, where what it
    does not mention goes with the head. Any other is split where it is defined: its children in their order, the
    largest of them split again while there are few, or, for blocks, wherever blocks stand in a plain sequence. A
    parameter that belongs directly to what is split (class token, position embedding) is part of the first layer. A
    parameter that two layers share is listed once; the head has it, where it is one of the two. Raises ValueError for
    an unknown head.
    """
    last = find_module(model, head)
    ids = {id(p) for p in last.parameters()}
    own = [n for n, p in model.named_parameters() if id(p) in ids]
    rest = [n for n, p in model.named_parameters() if id(p) not in ids]
    if not callable(getattr(model, "group_matcher", None)):
        return [*_split(model, rest, coarse=coarse), own]
    keyed = _matched(rest, model.group_matcher(coarse=coarse))  # type: ignore[operator]
    unmatched = keyed.pop(UNMATCHED, [])
    layers: list[list[str]] = []
    for key in sorted(keyed):
        if layers and key[-1] == WITH_THE_LAYER_BEFORE:
            layers[-1] += keyed[key]
        else:
            layers.append(keyed[key])
    if unmatched and coarse:
        return [*layers, unmatched, own]
    return [*layers, [*unmatched, *own]]


def _matched(names: Sequence[str], matcher: Any) -> dict[tuple[float, ...], list[str]]:
    """Names by timm's rules: the entry's place, then the numbers that its pattern finds, then the entry's suffix."""
    rules: list[tuple[re.Pattern[str], tuple[float, ...], tuple[float, ...]]] = []
    if isinstance(matcher, Mapping):
        for place, entry in enumerate(matcher.values()):
            for pattern, suffix in [(entry, None)] if isinstance(entry, str) else (entry or ()):
                rules.append((re.compile(pattern), (float(place),), tuple(suffix or ())))
    keyed: dict[tuple[float, ...], list[str]] = {}
    for name in names:
        key = UNMATCHED
        if callable(matcher):
            place = matcher(name)
            key = tuple(place) if isinstance(place, Iterable) else (float(place),)
        for expression, prefix, suffix in rules:
            if found := expression.match(name):
                key = (*prefix, *(float(g) for g in found.groups() if g is not None), *suffix)
                break
        keyed.setdefault(key, []).append(name)
    return keyed


def _split(model: nn.Module, names: Sequence[str], *, coarse: bool) -> list[list[str]]:
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    modules = dict(model.named_modules())

    def within(part: str) -> list[str]:
        return [n for n in names if inside(n, part)]

    def children(part: str) -> list[str]:
        below = [f"{part}.{n}" if part else n for n, _ in modules[part].named_children()]
        return [n for n in below if within(n)]

    def sequence_of_blocks(part: str) -> bool:
        return type(modules[part]) in (nn.Sequential, nn.ModuleList) and any(children(c) for c in children(part))

    parts = [""]  # names of modules in the order of definition
    while True:
        splittable = [p for p in parts if children(p)] if len(parts) < FEW else []
        if not coarse and not splittable:
            splittable = [p for p in parts if sequence_of_blocks(p)]
        if not splittable:
            break
        chosen = max(splittable, key=lambda p: sum(sizes[n] for n in within(p)))
        at = parts.index(chosen)
        parts[at : at + 1] = children(chosen)
    layers = [found for part in parts if (found := within(part))]
    listed = {n for layer in layers for n in layer}
    direct = [n for n in names if n not in listed]
    return [[*direct, *layers[0]], *layers[1:]] if layers else [direct] if direct else []
