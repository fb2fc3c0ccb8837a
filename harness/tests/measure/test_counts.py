"""test_counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.measure.counts import Count, count, count_parameters, impossible_speed, missing_work, skipped_work, watched
from harness.measure.workload import Inference, Training, random_batch


class Net(nn.Module):
    """One layer, global average pooling, a head."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x).mean((2, 3)))
        return out


def test_inference_by_hand() -> None:
    work = Inference(Net(nn.Conv2d(3, 8, 3, padding=1, bias=False), 8), random_batch(2, 16))
    conv, head = 2 * 2 * 16 * 16 * 8 * 3 * 9, 2 * 2 * 8 * 1000
    assert count(work).flops == conv + head


@pytest.mark.parametrize(
    ("layer", "width", "forward"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 8, 2 * 2 * 16 * 16 * 8 * 3 * 9),
        (nn.Conv2d(3, 9, 3, stride=2, padding=1, groups=3), 9, 2 * 2 * 8 * 8 * 9 * 1 * 9),
        (nn.ConvTranspose2d(3, 6, 2, stride=2), 6, 2 * 2 * 16 * 16 * 3 * 6 * 4),
        (nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3), 6, 2 * 2 * 16 * 16 * 3 * 2 * 4),
    ],
    ids=["conv", "grouped", "transposed", "grouped-transposed"],
)
def test_training_step_by_hand(layer: nn.Module, width: int, forward: int) -> None:
    """The images need no gradient, so the layer costs twice its forward pass and the head three times."""
    work = Training(Net(layer, width), random_batch(2, 16))
    assert count(work).flops == 2 * forward + 3 * (2 * 2 * width * 1000)


def test_both_gradients_of_a_depthwise_convolution() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12))
    work = Training(Net(layer, 12), random_batch(2, 16))
    pointwise, depthwise = 2 * 2 * 256 * 3 * 12, 2 * 2 * 256 * 12 * 9
    assert count(work).flops == 2 * pointwise + 3 * depthwise + 3 * (2 * 2 * 12 * 1000)


class AsksForValues(Net):
    """Control flow that the meta device can't follow."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max().item() < 0:
            raise AssertionError("no absolute value is negative")
        return super().forward(x)


def test_a_model_that_asks_for_values_is_counted_on_itself() -> None:
    plain, asking = (Training(kind(nn.Conv2d(3, 8, 3), 8), random_batch(2, 16)) for kind in (Net, AsksForValues))
    assert count(asking).flops == count(plain).flops


def test_counting_leaves_the_model_as_it_was() -> None:
    work = Training(Net(nn.Conv2d(3, 8, 3), 8), random_batch(2, 16))
    before = {k: v.clone() for k, v in work.model.state_dict().items()}
    count(work)
    assert all(torch.equal(before[k], v) for k, v in work.model.state_dict().items())
    assert all(p.grad is None for p in work.model.parameters())
    assert {p.device.type for p in work.model.parameters()} == {"cpu"}


class Latent(nn.Module):
    """Gives a layer a view of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.linear = nn.Parameter(torch.rand(1, 1, 4)), nn.Linear(4, 1000)

    def forward(self, images: Tensor) -> Tensor:
        query: Tensor = self.linear(self.latent.expand(len(images), -1, -1))
        return query[:, 0] * images.mean(dim=(1, 2, 3))[:, None]


def test_a_view_of_a_parameter_may_enter_a_layer() -> None:
    work = Inference(Latent(), random_batch(2, 8))
    assert count(work).flops == 2 * 2 * 4 * 1000
    assert all(p.requires_grad for p in work.model.parameters())


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(layer, layer)) == 20


def test_traffic_by_hand() -> None:
    """A convolution reads images and weights and writes its output; views move nothing."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 8 * 8, 1000, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x.flatten(1))
            return out

    counted = count(Inference(One(), random_batch(2, 8)))
    assert counted.traffic == 4 * (2 * 192 + 192 * 1000 + 2 * 1000)
    assert counted.dtypes == ("float32",)


@pytest.mark.parametrize("kind", [Inference, Training])
def test_a_lower_precision_halves_the_products(kind: type[Inference] | type[Training]) -> None:
    full = count(kind(Net(nn.Conv2d(3, 8, 3), 8), random_batch(2, 16)))
    half = count(kind(Net(nn.Conv2d(3, 8, 3), 8), random_batch(2, 16), torch.bfloat16))
    assert half.flops == full.flops
    assert (full.dtypes, half.dtypes) == (("float32",), ("bfloat16",))


def test_what_a_model_really_does_is_what_was_counted() -> None:
    work = Training(Net(nn.Conv2d(3, 8, 3), 8), random_batch(2, 16))
    assert watched(work) == count(work)


class IdleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return out


class Remembers(IdleNet):
    """Answers from its first call."""

    answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            return super().forward(x)
        if self.answer is None:
            self.answer = super().forward(x)
        return self.answer


class Pretends(IdleNet):
    """Does its work, and gives back an old answer."""

    answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        fresh = super().forward(x)
        if x.is_meta:
            return fresh
        self.answer = fresh.detach().clone() if self.answer is None else self.answer
        return self.answer


class Halves(IdleNet):
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
    assert suspicions(IdleNet(), kind) == []


def test_half_precision_that_was_asked_for_raises_none() -> None:
    work = Inference(IdleNet(), random_batch(2, 16), torch.bfloat16)
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
