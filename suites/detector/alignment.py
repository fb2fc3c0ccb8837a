"""Which layer of a detector is which of the reference, whatever they are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.subjects import SubjectError

Key = tuple[object, ...]
LEAVES = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
SIDES = (64, 128)
"""Of an image on which every level of the pyramid has a size of its own."""


def aligned(who: str, subject: nn.Module, reference: nn.Module) -> list[tuple[str, str]]:
    """Names of corresponding layers, (subject's, reference's), in the reference's order of execution.

    Layers correspond by the shapes of their parameters, by the sizes of what they put out, and then by order of
    execution. Raises SubjectError that says what one has and the other has not.
    """
    ours, theirs = _executed(subject), _executed(reference)
    pairs: dict[str, str] = {}
    for key in {**theirs, **ours}:
        mine, other = ours.get(key, []), theirs.get(key, [])
        if len(mine) != len(other):
            shapes, sizes = key[0], key[1]
            raise SubjectError(
                f"{who}: {len(mine)} layers with parameters {shapes} and outputs of {sizes} "
                f"({', '.join(mine) or 'none'}) "
                f"where the reference has {len(other)} ({', '.join(other) or 'none'}): different layers, or run on "
                "other levels"
            )
        pairs.update(zip(other, mine, strict=True))
    return [(pairs[name], name) for names in theirs.values() for name in names]


def _executed(model: nn.Module) -> dict[Key, list[str]]:
    outputs: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    order: list[str] = []

    def seen(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, given: object, output: Tensor) -> None:
            if name not in outputs:
                order.append(name)
            outputs[name].add(tuple(output.shape[2:]))

        return hook

    modules = {n: m for n, m in model.named_modules() if isinstance(m, LEAVES)}
    handles = [m.register_forward_hook(seen(n)) for n, m in modules.items()]
    try:
        with torch.no_grad():
            model.eval()([torch.rand(3, *SIDES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))])
    finally:
        for handle in handles:
            handle.remove()
    found: dict[Key, list[str]] = defaultdict(list)
    for name in order:
        shapes = tuple(tuple(p.shape) for p in modules[name].parameters())
        found[(shapes, tuple(sorted(outputs[name])))].append(name)
    return found


@torch.no_grad()
def transplant(subject: nn.Module, reference: nn.Module, pairs: list[tuple[str, str]], seed: int) -> None:
    """The same random values in both: no bias at zero, no norm an identity, scores of many candidates near even."""
    generator = torch.Generator().manual_seed(seed)
    for mine, other in pairs:
        a, b = subject.get_submodule(mine), reference.get_submodule(other)
        last = other.startswith(("roi_heads.box_predictor", "rpn.head.cls_logits", "rpn.head.bbox_pred"))
        given = dict(a.state_dict(keep_vars=True))
        for name, tensor in b.state_dict(keep_vars=True).items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name == "running_var":
                value = 0.5 + drawn.abs()
            elif tensor.ndim < 2:
                value = 0.2 * drawn + (1.0 if isinstance(b, nn.BatchNorm2d) and name == "weight" else 0.0)
            else:
                value = drawn * (2.0 / tensor[0].numel()) ** 0.5
            value = 0.1 * value if last else value
            tensor.copy_(value)
            given[name].copy_(value)
