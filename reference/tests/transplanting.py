"""What the tests of alignment share: random weights, transplant, comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from reference.alignment.graph.run_unchanged import first_logits
from reference.alignment.match.align import Alignment, align


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter and buffer a value that nothing else has; scales and variances positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                fan_in = max(tensor.numel() // max(tensor.shape[0], 1), 1) if tensor.dim() > 1 else 1
                tensor.copy_(0.5 + noise if tensor.dim() < 2 else (2 * noise - 1) * (3 / fan_in) ** 0.5)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def transplanted(subject: nn.Module, reference: nn.Module, sample: Tensor) -> Alignment:
    """Align, give the reference random weights and carry them to the subject. Both are float64 and in eval mode."""
    subject.double().eval()
    reference.double().eval()
    randomise(reference)
    alignment = align(subject, reference, sample.double())
    carried = alignment.to_subject(state(reference))
    left = {name for name, _ in subject.named_parameters()} - carried.keys()
    assert not left, f"the subject's {left} got no values"
    with torch.no_grad():
        for name, tensor in state(subject).items():
            if name in carried:
                assert carried[name].shape == tensor.shape
                tensor.copy_(carried[name])
    return alignment


def assert_equal_function(subject: nn.Module, reference: nn.Module, sample: Tensor) -> Alignment:
    """After the transplant the logits agree to rounding, and the round trip changes nothing."""
    alignment = transplanted(subject, reference, sample)
    with torch.no_grad():
        got, expected = first_logits(subject(sample.double())), reference(sample.double())
    assert got is not None
    error = ((got - expected).norm() / expected.norm()).item()
    assert error < 1e-10, f"relative error of the logits {error:.1e}"
    there = alignment.to_reference(state(subject))
    expected_state = {n: t for n, t in state(reference).items() if not n.endswith("num_batches_tracked")}
    assert there.keys() == expected_state.keys()
    for name, tensor in expected_state.items():
        assert torch.equal(there[name], tensor), name
    for name, tensor in alignment.to_subject(there).items():
        assert torch.equal(tensor, state(subject)[name]), name
    return alignment


def small_transformer() -> VisionTransformer:
    """torchvision's ViT with two layers of width 64."""
    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    )  # fmt: skip
