"""What shortcuts do for the gradient of a deep network (He et al. 2015, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suites.resnet.model import BasicBlock, Bottleneck, ResNet


class NoShortcut(nn.Module):
    """Adds nothing: a block with it is a plain chain of convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """A zero of any shape."""
        return x.new_zeros(())


def without_shortcuts(model: ResNet) -> ResNet:
    """Replace every shortcut of ``model``, projections too, in place."""
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            module.shortcut = NoShortcut()
    return model


def stage_gradient_norms(model: ResNet, images: Tensor) -> list[float]:
    """Norm of the loss's gradient at the output of each stage, first stage first, in train mode.

    ``images`` is (batch, channels, height, width); the loss is the mean square of the logits.
    """
    model.train()
    outputs: list[Tensor] = []
    x = model.stem(images)
    for stage in model.stages:
        x = stage(x)
        x.retain_grad()
        outputs.append(x)
    logits = model.head(torch.flatten(model.pool(x), 1))
    logits.square().mean().backward()
    norms = []
    for output in outputs:
        assert output.grad is not None
        norms.append(output.grad.norm().item())
    return norms
