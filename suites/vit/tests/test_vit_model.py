"""What is particular to this suite's own Vision Transformer: patches, attention, image sizes, arguments, depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suites.vit.model import NORM_EPS, SelfAttention, VisionTransformer, resize_position_embedding, vit_tiny_8


@pytest.fixture
def model() -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return vit_tiny_8(num_classes=5).double().eval()


def images(batch: int, side: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_patches_are_row_major(model: VisionTransformer) -> None:
    """Lighting up one patch changes one token, and the tokens follow the rows."""
    dark = model.embed(torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    for row in range(4):
        for column in range(4):
            lit = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
            lit[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1.0
            changed = (model.embed(lit) != dark).any(dim=-1).nonzero()[:, 1].tolist()
            assert changed == [1 + 4 * row + column]


def test_attention_weights(model: VisionTransformer) -> None:
    """Rows sum to one, every token attends to every token, and the output is the weighted values, projected."""
    attention = model.layers[0].attention
    assert isinstance(attention, SelfAttention)
    x = model.embed(images(2, 32))
    weights = attention.weights(x)
    assert weights.shape == (2, 4, 17, 17)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 17, dtype=torch.float64), rtol=0, atol=1e-12)
    assert bool((weights > 0).all())
    mixed = (weights @ attention.split(x)[2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.project(mixed), rtol=1e-10, atol=1e-12)


def test_attention_keeps_to_its_heads() -> None:
    """Values of one head reach only that head's share of the width (before the projection)."""
    attention = SelfAttention(12, 3).double()
    with torch.no_grad():
        attention.project.weight.copy_(torch.eye(12))
        attention.project.bias.zero_()
        x = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        before = attention(x)
        attention.qkv.bias[24 + 4 : 24 + 8] += 1.0  # values of the second head
        moved = (attention(x) - before).abs().amax((0, 1)) > 1e-9
    assert moved.tolist() == [False] * 4 + [True] * 4 + [False] * 4


@pytest.mark.parametrize("side", [24, 48, 64])
def test_weights_of_another_image_size(model: VisionTransformer, side: int) -> None:
    """Resized position embeddings load, equal timm's resampling, and leave everything else alone."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    from reference.weights.checkpoint_files import load_weights

    state = model.state_dict()
    resized = resize_position_embedding(state, side, 8)
    other = vit_tiny_8(num_classes=5, image_size=side).double().eval()
    load_weights(other, resized)
    assert other(images(2, side)).shape == (2, 5)
    expected = resample_abs_pos_embed(state["position_embedding"], [side // 8, side // 8], verbose=False)
    # Both resample in float32, whose rounding of a weighted mean of up to 25 values this bounds.
    torch.testing.assert_close(resized["position_embedding"], expected, rtol=0, atol=1e-6)
    assert all(resized[name] is state[name] for name in state if name != "position_embedding")


def test_resizing_keeps_what_it_should(model: VisionTransformer) -> None:
    """The same size changes nothing, a constant stays constant, and the class token's row stays."""
    state = dict(model.state_dict())
    assert resize_position_embedding(state, 32, 8)["position_embedding"] is state["position_embedding"]
    state["position_embedding"] = torch.full_like(state["position_embedding"], 0.75)
    state["position_embedding"][:, 0] = -3.0
    resized = resize_position_embedding(state, 56, 8)["position_embedding"]
    assert resized.shape == (1, 50, 64)
    assert bool((resized[:, 0] == -3.0).all())
    torch.testing.assert_close(resized[:, 1:], torch.full_like(resized[:, 1:], 0.75), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, r"image_size=30: must be a positive multiple of patch_size=8"),
        ({"image_size": 0}, r"image_size=0: must be a positive multiple of patch_size=8"),
        ({"heads": 5}, r"width=64: must be a positive multiple of heads=5"),
        ({"heads": 0}, r"width=64: must be a positive multiple of heads=0"),
        ({"dropout": 1.0}, r"dropout=1.0: the rate must lie in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout=-0.1: the rate must lie in \[0, 1\)"),
        ({"num_classes": 0}, r"num_classes=0: must be at least 1"),
        ({"in_channels": 0}, r"in_channels=0: must be at least 1"),
        ({"layers": 0}, r"layers=0: must be at least 1"),
        ({"mlp_width": 0}, r"mlp_width=0: must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"patch_size": 8, "width": 64, "layers": 1, "heads": 4, "mlp_width": 64, "image_size": 32}
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**{**good, **arguments})


@pytest.mark.parametrize("shape", [(1, 3, 40, 40), (1, 3, 32, 40), (1, 4, 32, 32), (3, 32, 32), (1, 3, 0, 0)])
def test_bad_images_are_named(model: VisionTransformer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input of shape .*expected \(batch, 3, 32, 32\)"):
        model(torch.zeros(shape, dtype=torch.float64))


def test_weights_that_cannot_be_resized_are_named(model: VisionTransformer) -> None:
    state = model.state_dict()
    with pytest.raises(ValueError, match="image_size=33: must be a positive multiple of patch_size=8"):
        resize_position_embedding(state, 33, 8)
    with pytest.raises(ValueError, match=r"\(1, 16, 64\): expected \(1, 1 \+ side\*\*2, width\)"):
        resize_position_embedding({"position_embedding": state["position_embedding"][:, 1:]}, 48, 8)
    with pytest.raises(ValueError, match="no 'position_embedding'"):
        resize_position_embedding({"head.bias": state["head.bias"]}, 48, 8)


def test_dropout_acts_in_training_only() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = vit_tiny_8(num_classes=5, dropout=0.5)
        x = images(2, 32).float()
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def shallow(patch: int, width: int, heads: int, library: str) -> nn.Module:
    """One layer at a large member's own width, patch and heads, for images of two by two patches."""
    if library == "ours":
        return VisionTransformer(
            patch_size=patch,
            width=width,
            layers=1,
            heads=heads,
            mlp_width=4 * width,
            image_size=2 * patch,
            num_classes=7,
        )
    if library == "timm":
        from timm.models import VisionTransformer as Timm

        return Timm(img_size=2 * patch, patch_size=patch, embed_dim=width, depth=1, num_heads=heads, num_classes=7)
    from torchvision.models import VisionTransformer as Torchvision

    model: nn.Module = Torchvision(2 * patch, patch, 1, heads, width, 4 * width, num_classes=7)
    return model


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(("patch", "width", "heads"), [(16, 1024, 16), (32, 1024, 16), (14, 1280, 16)])
def test_large_members_in_one_layer(patch: int, width: int, heads: int, library: str) -> None:
    """The code of L/16, L/32 and H/14 with one layer: logits and input gradients equal the references', in float64.

    The bound is a thousand roundings of float64 relative to the result, over sums of at most 5,120 terms.
    """
    from reference.alignment.match.align import align
    from reference.weights.nondegenerate import randomise

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = shallow(patch, width, heads, "ours").double().eval()
        theirs = shallow(patch, width, heads, library).double().eval()
    x = images(2, 2 * patch).requires_grad_()
    randomise(theirs, x.detach(), seed=3)
    weights = align(ours, theirs, x[:1].detach()).to_subject(theirs.state_dict())
    assert weights.keys() == ours.state_dict().keys()
    ours.load_state_dict(weights)
    results = []
    for network in (ours, theirs):
        logits = network(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        results.append((logits.detach(), gradient))
    for got, expected in zip(*results, strict=True):
        error = (got - expected).norm() / expected.norm()
        assert error < 1000 * torch.finfo(torch.float64).eps, f"relative error {error:.1e}"


def test_norms_use_the_published_epsilon(model: VisionTransformer) -> None:
    """Nine norms (two in each of four layers and the last), all with eps 1e-6; and GELU is the exact one."""
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 9
    assert {m.eps for m in norms} == {NORM_EPS} == {1e-6}
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    gelu = next(m for m in model.modules() if isinstance(m, nn.GELU))
    torch.testing.assert_close(gelu(x), 0.5 * x * (1 + torch.erf(x / 2**0.5)), rtol=1e-12, atol=1e-15)
    assert not torch.allclose(gelu(x), F.gelu(x, approximate="tanh"), rtol=1e-6, atol=0)
