from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.numerics.shape_trace import ShapeTrace


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, -1)
        tokens = tokens + self.scale * ((q @ k.mT * 0.3).softmax(-1) @ v)
        return nn.functional.gelu(tokens).mean(1)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.GroupNorm(2, 6),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


@pytest.mark.parametrize("build", [convolutional, Attention])
@pytest.mark.parametrize("size", [(1, 3, 8, 8), (3, 3, 13, 20)])
def test_shapes_without_values_are_those_with_values(build: Callable[[], nn.Module], size: tuple[int, ...]) -> None:
    seen = []
    for device in ("cpu", "meta"):
        model = build().to(device).eval()
        with torch.no_grad(), ShapeTrace() as trace:
            out = model(torch.empty(size, device=device))
        seen.append((tuple(out.shape), {s for s in trace.seen if len(s) > 2}))
        assert tuple(out.shape) in trace.seen
    assert seen[0][0] == seen[1][0]
    # What a norm saves beside its result (means, deviations) is not followed by rule.
    assert seen[1][1] <= seen[0][1]
    assert all(s in seen[1][1] for s in seen[0][1] if s[0] == size[0] and 1 not in s[1:])


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "broadcast": lambda x: x * x[:, :1] + x[0],
    "scalar": lambda x: 1 - x / 2,
    "in place": lambda x: x.clone().add_(x[:1]),
    "mean": lambda x: x.mean((-1, 2)),
    "mean kept": lambda x: x.mean((1, -1), keepdim=True),
    "mean of all": lambda x: x.mean(),
    "log_softmax": lambda x: x.log_softmax(1),
    "layer norm over two": lambda x: nn.functional.layer_norm(x, x.shape[-2:]),
    "comparison": lambda x: x > 0,
    "logical": lambda x: torch.logical_xor(x, x),
    "infinite": lambda x: torch.isposinf(x),
    "where": lambda x: torch.where(x > 0, x, x[:1]),
    "clamp": lambda x: x.clamp(0, 6),
    "promotion": lambda x: x.half() + x,
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "power": lambda x: x**2,
    "cast": lambda x: x.double() * 2.0,
    "convolution": lambda x: nn.functional.conv2d(x, x[:1, :, :2, :3], stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "depthwise": lambda x: nn.functional.conv2d(x, x[0, :, None, :3, :3], x[0, :, 0, 0], padding=1, groups=3),
    "same": lambda x: nn.functional.conv2d(x, x[:1, :, :3, :3], padding="same"),
    "transposed": lambda x: nn.functional.conv_transpose2d(x, x[0, :, None, :2, :2], stride=2, output_padding=1),
    "one dimension": lambda x: nn.functional.conv1d(x[0], x[0, :2, :, :2]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_rule_gives_torchs_own_shape_and_dtype(name: str) -> None:
    got = {}
    for device in ("cpu", "meta"):
        with torch.no_grad(), ShapeTrace():
            out = OPERATIONS[name](torch.ones(2, 3, 4, 5, device=device))
        got[device] = (tuple(out.shape), out.dtype)
    assert got["meta"] == got["cpu"]


WRONG: dict[str, Callable[[Tensor], object]] = {
    "sum of unlike shapes": lambda x: x + x[:, :2],
    "in place sum that would grow": lambda x: x[:1].add_(x),
    "norm of another width": lambda x: nn.BatchNorm2d(4, device=x.device).eval()(x),
    "layer norm of another width": lambda x: nn.LayerNorm(4, device=x.device)(x),
    "convolution of other channels": lambda x: nn.functional.conv2d(x, x[:, :2]),
    "convolution in unequal groups": lambda x: nn.functional.conv2d(x, x[:, :1, :2, :2], groups=3),
    "convolution of too small images": lambda x: nn.functional.conv2d(x[..., :2, :2], x[..., :3, :3]),
    "bias of another width": lambda x: nn.functional.conv2d(x, x[..., :2, :2], x[0, 0, 0]),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", WRONG)
def test_what_torch_refuses_is_refused(name: str, device: str) -> None:
    with torch.no_grad(), ShapeTrace(), pytest.raises(RuntimeError):
        WRONG[name](torch.ones(2, 3, 4, 5, device=device))
