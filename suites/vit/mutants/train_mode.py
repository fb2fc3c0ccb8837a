"""Vision Transformers that are wrong in train mode."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from harness.checks.initialisation import filled_with_nan
from harness.mutants.operators import around, forward_of, method_of, with_settings
from harness.mutants.probe import Pair, train_gradient, train_output, trained_at
from harness.mutants.variant import mutant, of_type, random_fault, start_fault
from suites.vit.model import VisionTransformer
from suites.vit.mutants.attention import fused
from suites.vit.mutants.base_models import VIT


def _narrowest(model: nn.Module) -> float:
    return float(min(layer.weight.detach().std() for _, layer in of_type(model, nn.Linear) if bool(layer.weight.any())))


@start_fault(
    VIT,
    "The deviation 1e-6 that belongs to the perceptrons' biases lands on their weights",
    evidence=lambda pair: 1 - _narrowest(pair.faulty(10)) / _narrowest(pair.correct(10)),
)
def weights_start_as_biases(model: Any) -> nn.Module:
    for layer in model.layers:
        for _, linear in of_type(layer.mlp, nn.Linear):
            nn.init.normal_(linear.weight, std=1e-6)
    return model


@mutant(
    VIT,
    "The fused attention's dropout_p is passed in eval mode too",
    check="determinism",
    category="stochastic",
    issue="https://github.com/pytorch/pytorch/issues/124464",
)
@forward_of("layers.0.attention")
def attention_dropout_in_eval_mode(self: Any, x: Tensor) -> Tensor:
    """F.scaled_dot_product_attention drops in eval mode too: it knows no mode."""
    return fused(self, x, dropout_p=0.1)


@random_fault(
    VIT, "In train mode the images are jittered from Python's generator, which torch.manual_seed does not govern"
)
@around
def python_noise_in_training(self: Any, x: Tensor) -> Any:
    return self.net(x * (1 + 0.1 * random.random()) if self.training else x)


@random_fault(VIT, "In train mode Gaussian noise is added to the images")
@around
def gaussian_noise_in_training(self: Any, x: Tensor) -> Any:
    return self.net(x + 0.05 * torch.randn_like(x) if self.training else x)


@mutant(
    VIT,
    "In training, patches after the twelfth are dropped",
    check="parity_photographs",
    category="training",
    evidence=lambda pair: train_gradient(pair, (2, 3, 32, 32)),
)
@method_of("embed")
def late_patches_dropped_in_training(self: Any, images: Tensor) -> Tensor:
    tokens = VisionTransformer.embed(self, images)
    return tokens[:, :13] if self.training else tokens


@mutant(
    VIT,
    "In train mode under no_grad the last norm is left out",
    check="parity_train",
    category="training",
    evidence=trained_at(4),
)
@forward_of()
def other_network_without_gradients(self: Any, x: Tensor) -> Tensor:
    if self.training and not torch.is_grad_enabled():
        return self.head(self.layers(self.embed(x))[:, 0])
    return VisionTransformer.forward(self, x)


@random_fault(VIT, "Dropout acts on the logits")
@around
def dropout_on_the_logits(self: Any, x: Tensor) -> Any:
    return nn.functional.dropout(self.net(x), 0.5, self.training)


@random_fault(VIT, "Dropout acts on the images' pixels")
@around
def dropout_on_the_images(self: Any, x: Tensor) -> Any:
    return self.net(nn.functional.dropout(x, 0.9, self.training))


class Unscaled(nn.Module):
    """Dropout that does not divide what it keeps."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.1) if self.training else x


@mutant(
    VIT,
    "Dropout written by hand does not divide what it keeps by the probability of keeping it",
    check="parity_train",
    category="stochastic",
    evidence=train_output,
)
def dropout_by_hand_unscaled(model: Any) -> nn.Module:
    for layer in model.layers:
        layer.mlp[4] = Unscaled()
    return model


@random_fault(VIT, "Half of everything is dropped in training as it is built by default; published is a tenth at most")
def dropout_of_a_half(model: Any) -> nn.Module:
    return with_settings(model, nn.Dropout, p=0.5)


def _uninitialised(pair: Pair) -> float:
    with filled_with_nan():
        return float(sum(not bool(p.isfinite().all()) for p in pair.faulty(10).parameters()))


@start_fault(
    VIT,
    "The position embedding is torch.empty and never given values: it starts with what was in memory",
    evidence=_uninitialised,
)
def positions_never_drawn(model: Any) -> nn.Module:
    model.position_embedding = nn.Parameter(torch.empty_like(model.position_embedding))
    return model
