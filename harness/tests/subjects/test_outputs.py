from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.subjects.outputs import describe, logits_of

LOGITS = torch.zeros(2, 10)
FEATURES = torch.zeros(2, 64)
Pair = namedtuple("Pair", ["logits", "features"])


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    loss: Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, FEATURES),
        [FEATURES, LOGITS],
        Pair(LOGITS, FEATURES),
        {"logits": LOGITS, "features": FEATURES},
        OrderedDict(features=[FEATURES], head={"logits": LOGITS}),
        Output(LOGITS, (FEATURES, torch.zeros(2, 10, 7))),
        (None, "text", LOGITS),
    ],
)
def test_the_one_tensor_of_the_right_width_is_found(output: Any) -> None:
    assert logits_of(output, 10) is LOGITS


def test_a_bare_tensor_is_taken_as_it_is() -> None:
    assert logits_of(FEATURES, 10) is FEATURES  # its shape is a check's business


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (None, "forward returned None; expected a tensor of shape (batch, 10)"),
        ("logits", "forward returned str;"),
        (LOGITS.to(torch.complex64), "a tensor (2, 10) of complex64; expected floating-point logits"),
        (LOGITS.long(), "a tensor (2, 10) of int64; expected floating-point logits"),
        ((FEATURES,), "a tuple of (a tensor (2, 64) of float32); expected"),
        ({"a": LOGITS, "b": LOGITS.clone()}, "exactly one such tensor, got 2"),
        (Output, "forward returned type;"),
    ],
)
def test_what_is_not_clear_is_said(output: Any, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        logits_of(output, 10)
    assert says in str(caught.value)


def test_descriptions_stay_short() -> None:
    assert len(describe([LOGITS] * 1000)) < 200
