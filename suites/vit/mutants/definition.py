"""Vision Transformers whose tokens, norms or perceptrons are off by one thing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, layer_at, method_of, with_settings
from harness.mutants.variant import become, mutant, of_type, parameters_fault, replaced
from suites.vit.model import EncoderLayer, VisionTransformer
from suites.vit.mutants.base_models import VIT


@mutant(VIT, "The tanh approximation of GELU", check="parity_eval")
def tanh_gelu(model: Any) -> nn.Module:
    return with_settings(model, nn.GELU, approximate="tanh")


@mutant(VIT, "ReLU in the perceptrons, as nn.TransformerEncoderLayer has by default", check="parity_eval")
def relu_for_gelu(model: Any) -> nn.Module:
    for name, _ in of_type(model, nn.GELU):
        replaced(model, name, nn.ReLU())
    return model


@mutant(VIT, "The sigmoid approximation of GELU (CLIP's QuickGELU) in one layer", check="parity_eval")
@layer_at("layers.2.mlp.1")
def quick_gelu(self: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@mutant(
    VIT,
    "LayerNorm's eps is 1e-5, PyTorch's default",
    check="parity_eval",
    issue="https://github.com/huggingface/transformers/issues/18137",
)
def layer_norm_eps_1e_5(model: Any) -> nn.Module:
    return with_settings(model, nn.LayerNorm, eps=1e-5)


@mutant(VIT, "Only the final LayerNorm has eps 1e-5", check="parity_eval")
def final_norm_eps_1e_5(model: Any) -> nn.Module:
    return with_settings(model, "norm", eps=1e-5)


@mutant(VIT, "A handwritten LayerNorm adds eps to the deviation", check="parity_eval")
@forward_of("layers.0.norm1")
def eps_outside_the_root(self: Any, input: Tensor) -> Tensor:
    centred = input - input.mean(-1, keepdim=True)
    deviation = centred.square().mean(-1, keepdim=True).sqrt()
    return centred / (deviation + self.eps) * self.weight + self.bias


@mutant(VIT, "A handwritten LayerNorm has the unbiased variance", check="parity_eval")
@forward_of("layers.1.norm2")
def unbiased_layer_norm(self: Any, input: Tensor) -> Tensor:
    """Divides by N - 1, as Tensor.std does."""
    centred = input - input.mean(-1, keepdim=True)
    return centred / (input.var(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


@mutant(VIT, "A norm does not subtract the mean (RMSNorm)", check="parity_eval")
@forward_of("norm")
def root_mean_square_norm(self: Any, input: Tensor) -> Tensor:
    return input * (input.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight + self.bias


@mutant(VIT, "A norm takes its statistics over tokens and width", check="parity_eval")
@forward_of("layers.3.norm1")
def norm_over_tokens(self: Any, input: Tensor) -> Tensor:
    centred = input - input.mean((1, 2), keepdim=True)
    variance = centred.square().mean((1, 2), keepdim=True)
    return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


@mutant(VIT, "Norms follow the additions (post-norm)", check="parity_eval")
@forward_of(EncoderLayer)
def post_norm(self: Any, x: Tensor) -> Tensor:
    x = self.norm1(x + self.dropout(self.attention(x)))
    return self.norm2(x + self.mlp(x))


@mutant(VIT, "Attention and perceptron run in parallel in one layer", check="parity_eval")
@forward_of("layers.1")
def parallel_branches(self: Any, x: Tensor) -> Tensor:
    return x + self.dropout(self.attention(self.norm1(x))) + self.mlp(self.norm2(x))


@mutant(VIT, "The shortcut around attention starts after the norm", check="parity_eval")
@forward_of("layers.2")
def shortcut_after_the_norm(self: Any, x: Tensor) -> Tensor:
    x = self.norm1(x)
    x = x + self.dropout(self.attention(x))
    return x + self.mlp(self.norm2(x))


@mutant(VIT, "A layer has no shortcut around its perceptron", check="skip_gradient")
@forward_of("layers.2")
def shortcut_around_the_perceptron_missing(self: Any, x: Tensor) -> Tensor:
    x = x + self.dropout(self.attention(self.norm1(x)))
    return self.mlp(self.norm2(x))


@mutant(VIT, "A layer uses its first norm twice and its second never", check="gradients")
@forward_of("layers.0")
def second_norm_unused(self: Any, x: Tensor) -> Tensor:
    x = x + self.dropout(self.attention(self.norm1(x)))
    return x + self.mlp(self.norm1(x))


@parameters_fault(VIT, "There is no final norm: as freshly built hardly anything shows")
def no_final_norm(model: Any) -> nn.Module:
    return replaced(model, "norm", nn.Identity())


@parameters_fault(VIT, "The perceptrons widen twice, not four times")
def narrow_perceptron(model: Any) -> nn.Module:
    replaced(model, "layers.0.mlp.0", nn.Linear(64, 128))
    return replaced(model, "layers.0.mlp.3", nn.Linear(128, 64))


@parameters_fault(VIT, "All layers are one (ALBERT's sharing)")
def layers_share_weights(model: Any) -> nn.Module:
    model.layers = nn.Sequential(*[model.layers[0]] * 4)
    return model


class LayerScale(EncoderLayer):
    """Scales both branches by learnt numbers (CaiT)."""

    scale: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.attention(self.norm1(x))
        return x + self.scale * self.mlp(self.norm2(x))


@parameters_fault(VIT, "Branches have a learnt scale, as in CaiT and DINOv2")
def layer_scale(model: Any) -> nn.Module:
    for _, layer in of_type(model, EncoderLayer):
        become(layer, LayerScale)
        layer.scale = nn.Parameter(torch.ones(64))
    return model


@mutant(VIT, "The logits are read from the mean of the tokens", check="parity_eval")
@forward_of()
def mean_pooling(self: Any, x: Tensor) -> Tensor:
    return self.head(self.norm(self.layers(self.embed(x))).mean(1))


@mutant(VIT, "The logits are read from the first patch, not from the class token", check="parity_eval")
@forward_of()
def first_patch_read(self: Any, x: Tensor) -> Tensor:
    return self.head(self.norm(self.layers(self.embed(x)))[:, 1])


@mutant(VIT, "A tanh in front of the head, left over from pre-training", check="parity_eval")
@forward_of()
def tanh_before_the_head(self: Any, x: Tensor) -> Tensor:
    """BERT's pooler without its layer."""
    return self.head(torch.tanh(self.norm(self.layers(self.embed(x)))[:, 0]))


@parameters_fault(VIT, "The patch embedding has no bias")
def patch_embedding_without_bias(model: Any) -> nn.Module:
    return replaced(model, "patch_embedding", nn.Conv2d(model.in_channels, 64, 8, stride=8, bias=False))


@mutant(VIT, "An activation follows the patch embedding", check="parity_eval")
def activated_patches(model: Any) -> nn.Module:
    model.patch_embedding = nn.Sequential(model.patch_embedding, nn.GELU())
    return model


@mutant(VIT, "The embedded tokens are normalised without learnt parameters", check="parity_eval")
@method_of("embed")
def embedded_tokens_normalised(self: Any, images: Tensor) -> Tensor:
    return F.layer_norm(VisionTransformer.embed(self, images), (64,))
