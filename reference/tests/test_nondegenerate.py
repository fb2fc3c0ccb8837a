"""Under `randomise`, every parameter and every running statistic matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import efficientnet_b0, efficientnet_b4, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from reference.weights.nondegenerate import CALIBRATION, randomise


def vit() -> nn.Module:
    return VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )


def normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Eval-mode batch normalisation of which the running statistics are differentiable."""
    mean, var, weight, bias = (
        t.view(1, -1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias) if t is not None
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


def randomised(build: Callable[[], nn.Module], seed: int = 3) -> tuple[nn.Module, Tensor]:
    model = build().double().eval()
    images = torch.randn(CALIBRATION, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    randomise(model, images, seed=seed)
    return model, images


def resnet() -> nn.Module:
    return resnet18(num_classes=10)


def efficientnet() -> nn.Module:
    return efficientnet_b0(num_classes=10)


@pytest.mark.parametrize("build", [resnet, efficientnet, vit])
def test_logits_depend_on_every_tensor(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = randomised(build)
    with torch.no_grad():
        plain = model(images)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", normalise)
    tensors = dict(model.named_parameters())
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            tensors[name] = buffer.requires_grad_()  # type: ignore[assignment]
    logits = model(images)
    assert torch.allclose(logits, plain, rtol=1e-9)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad(logits, list(tensors.values()), direction, allow_unused=True)
    for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
        assert gradient is not None, f"{name} is not used"
        assert bool(torch.isfinite(gradient).all()), name
        # Against what changing it by its own size does to logits of order one: not lost in float64's rounding.
        felt = float((gradient * tensor.detach()).abs().max())
        assert felt > 1e-9, f"{name} hardly matters: {felt:.1e}"


@pytest.mark.parametrize("build", [resnet, efficientnet, vit])
def test_no_tensor_is_left_as_it_starts(build: Callable[[], nn.Module]) -> None:
    model, images = randomised(build)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            assert int(tensor) not in (0, 1), name
            continue
        assert bool(torch.isfinite(tensor).all()), name
        # Among a hundred thousand draws two may coincide, or one be zero.
        assert len(tensor.unique()) > 0.999 * tensor.numel(), f"{name} holds equal values"
        assert int(((tensor == 0) | (tensor == 1)).sum()) < 1 + 1e-3 * tensor.numel(), name
    for name, buffer in model.named_buffers():
        assert not name.endswith("running_var") or bool((buffer > 0).all()), name
    with torch.no_grad():
        logits = model(images)
    # Far from where float64 or float32 would overflow.
    assert 1e-2 < float(logits.std()) < 1e3
    assert float((logits - logits.mean(0)).std()) > 1e-2, "all images give the same logits"
    assert not model.training


def test_the_seed_decides() -> None:
    first, second, other = (randomised(vit, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first)


def test_mode_and_momenta_are_kept() -> None:
    model, images = randomised(resnet)
    model.train()
    model.get_submodule("bn1").momentum = 0.03  # type: ignore[assignment]
    randomise(model, images, seed=0)
    assert all(m.training for m in model.modules())
    assert model.get_submodule("bn1").momentum == 0.03


@pytest.mark.parametrize("build", [efficientnet, efficientnet_b4])
def test_other_images_are_not_amplified(build: Callable[[], nn.Module]) -> None:
    """A relative change of 1e-12 of every weight changes the logits of images not calibrated on by less than 1e-8."""
    model, _ = randomised(build)
    others = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        before = model(others)
        for parameter in model.parameters():
            parameter.mul_(
                1 + 1e-12 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8)).double()
            )
        moved = (model(others) - before).norm() / before.norm()
    assert float(moved) < 1e-8
