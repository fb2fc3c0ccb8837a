"""Properties of EfficientNets that any subject is held to, beside the shared checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench.bench import Bench
from harness.bench.passes import load, run_pass, state
from harness.bench.weight_transplant import transplant

aten = torch.ops.aten
ROUNDING = 1e-12
"""A sigmoid in float64 is right to about 1e-16."""


class _Gates(TorchDispatchMode):
    """Keeps every factor that a feature map is multiplied with, one number per sample and channel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's dispatch modes have no annotations
        self.found: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at products; pass everything on."""
        if func in (aten.mul.Tensor, aten.mul_.Tensor):
            factors = [f for f in args if isinstance(f, Tensor) and f.ndim == 4]
            if len(factors) == 2:
                for gate, features in (factors, factors[::-1]):
                    if _is_gate(gate, features):
                        self.found.append(gate[:, :, 0, 0].clone())
        return func(*args, **(kwargs or {}))


def _is_gate(gate: Tensor, features: Tensor) -> bool:
    """(batch, channels, 1, 1), or expanded from that, beside (batch, channels, height, width)."""
    constant = gate.shape[2:] == (1, 1) or gate.stride()[2:] == (0, 0)
    same = gate.shape[:2] == features.shape[:2] and gate.shape[0] > 1 and gate.shape[1] > 1
    return constant and same and features.shape[2:] != (1, 1) and gate.stride(0) != 0


def check_gates(bench: Bench) -> None:
    """Each block multiplies each channel of each sample by one gate in (0, 1), the sigmoid of what leads to it.

    The layers in front of the gates are given weights of zero and biases from -6 to 6, so that every gate is known.
    """
    blocks = int(bench.architecture.facts["gates"])
    if not blocks:
        pytest.skip(f"{bench.architecture.name} has no squeeze-and-excitation")
    made = transplant(bench)
    grafted = made.grafted[0]
    values = {name: value.clone() for name, value in state(grafted.model).items()}
    expected = []
    for name, module in grafted.model.named_modules():
        # Only squeeze-and-excitation has biases beside the norms; its second layer widens.
        if isinstance(module, nn.Conv2d) and module.bias is not None and module.out_channels > module.in_channels:
            biases = torch.linspace(-6, 6, module.out_channels, dtype=torch.float64)
            values[f"{name}.weight"].zero_()
            values[f"{name}.bias"].copy_(biases)
            expected.append(biases.sigmoid())
    kept = {name: value.clone() for name, value in state(made.subject).items()}
    try:
        load(made.subject, grafted.alignment.to_subject(values))
        with _Gates() as gates:
            run_pass(bench, made.subject, bench.images(3, made.side, seed=60), train=False, gradients=False)
    finally:
        load(made.subject, kept)
    bench.notes.update(gates=len(gates.found), blocks=blocks)
    if not gates.found:
        pytest.skip("its gates are no product of a feature map and one number per sample and channel")
    assert len(gates.found) == blocks == len(expected), (
        f"{bench.who}: {len(gates.found)} blocks have squeeze-and-excitation; expected all {blocks}"
    )
    for number, (gate, due) in enumerate(zip(gates.found, expected, strict=True), start=1):
        assert gate.shape[1] == len(due), (
            f"{bench.who}: the gates of block {number} are {gate.shape[1]}; expected {len(due)}, one per channel"
        )
        error = (gate.sort(dim=1).values - due).abs()
        worst = int(error.amax(0).argmax())
        assert error.max() < ROUNDING, (
            f"{bench.who}: a gate of block {number} is {gate.sort(dim=1).values[0, worst]:.4g} where the layers before "
            f"it give {math.log(due[worst] / (1 - due[worst])):.3g}; expected {due[worst]:.4g}, the sigmoid of that (a "
            "hard sigmoid is 0 below -3 and 1 above 3)"
        )
