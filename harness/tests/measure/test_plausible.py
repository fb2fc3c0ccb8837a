from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.measure.counts import Count, count
from harness.measure.plausible import impossible_speed, missing_work, skipped_work
from harness.measure.workload import Inference, Training, random_batch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return out


class Remembers(Net):
    """Answers from its first call."""

    answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            return super().forward(x)
        if self.answer is None:
            self.answer = super().forward(x)
        return self.answer


class Pretends(Net):
    """Does its work, and gives back an old answer."""

    answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        fresh = super().forward(x)
        if x.is_meta:
            return fresh
        self.answer = fresh.detach().clone() if self.answer is None else self.answer
        return self.answer


class Halves(Net):
    """Convolves in half precision, whoever asks."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight.bfloat16(), self.conv.bias
        assert bias is not None
        seen = nn.functional.conv2d(x.bfloat16(), weight, bias.bfloat16()).float()
        out: Tensor = self.head(seen.relu().mean((2, 3)))
        return out


def suspicions(model: nn.Module, kind: type[Inference] | type[Training] = Inference) -> list[str]:
    work = kind(model, random_batch(2, 16))
    asked = count(work)
    work()
    return list(skipped_work(work, asked))


@pytest.mark.parametrize("kind", [Inference, Training])
def test_an_honest_model_raises_none(kind: type[Inference] | type[Training]) -> None:
    assert suspicions(Net(), kind) == []


def test_half_precision_that_was_asked_for_raises_none() -> None:
    work = Inference(Net(), random_batch(2, 16), torch.bfloat16)
    asked = count(work)
    work()
    assert list(skipped_work(work, asked)) == []


def test_each_way_of_skipping_work_is_named() -> None:
    assert suspicions(Remembers())[0].endswith("GFLOP once warm: output cached")
    assert suspicions(Pretends()) == ["gave the same output for other images: output cached"]
    assert suspicions(Halves()) == ["multiplied in bfloat16 where float32 was asked for: silent lower precision"]


def test_dropped_layers_show_in_the_counts() -> None:
    def counted(flops: float) -> Count:
        return Count(flops=int(flops), traffic=0, dtypes=())

    references = [("torchvision", counted(2e9), 1_000), ("timm", counted(2.02e9), 1_001)]
    assert list(missing_work(counted(1.99e9), 990, references)) == []
    assert list(missing_work(counted(1e9), 1_000, references)) == [
        "asks for 1 GFLOP where torchvision asks for 2: layers dropped"
    ]
    assert list(missing_work(counted(2e9), 500, references)) == [
        "has 500 parameters where torchvision has 1,000: layers dropped"
    ]
    assert list(missing_work(counted(0), 0, [])) == []


def test_a_speed_beyond_the_machine() -> None:
    assert impossible_speed(1e9, 0.01, 1e11) == ""
    assert impossible_speed(1e9, 0.001, 1e11).startswith(
        "did 1 GFLOP in 1 ms, 10.0 times what this machine can multiply"
    )
