"""Our recipes' own behaviour: what they refuse, whose layers they find, and what becomes of a network that had one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from suites.transfer import recipe as recipes
from suites.transfer.checks.backbones import CONVNET, DROPOUT, TIED, TIMM_RESNET, TORCHVISION_VIT, Backbone
from suites.transfer.layer_groups import layers_of

BACKBONES = (CONVNET, TIMM_RESNET, TORCHVISION_VIT, DROPOUT, TIED)


@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: b.name)
def test_layers_list_every_parameter_once_in_order(backbone: Backbone, coarse: bool) -> None:
    model = backbone.model()
    layers = layers_of(model, backbone.head, coarse=coarse)
    names = [n for layer in layers for n in layer]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    order = [backbone.layer(n) for n in names]
    known = [number for number in order if number is not None]
    assert known == sorted(known)
    assert len(layers) >= len(backbone.layers) - 1


def test_layers_of_real_networks() -> None:
    timm = pytest.importorskip("timm")
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        cases = (
            (models.resnet50(), "fc", 7, 19),
            (models.efficientnet_b0(), "classifier.1", 10, 19),
            (models.vit_b_16(), "heads.head", 15, 15),
            (timm.create_model("vit_tiny_patch16_224"), "head", 14, 14),
        )
    for model, head, stages, blocks in cases:
        assert len(layers_of(model, head)) == stages
        assert len(layers_of(model, head, coarse=False)) == blocks


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "efficientnet_lite0"])
def test_layerwise_decay_has_the_rates_of_timm(name: str) -> None:
    """Parameter by parameter: the rate is the base rate times timm's ``lr_scale``, and the decay is timm's."""
    timm = pytest.importorskip("timm")
    from timm.optim._param_groups import param_groups_layer_decay

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=5)
    head = model.pretrained_cfg["classifier"]
    ours = recipes.layerwise_decay(model, head, lr=0.5, decay=0.7, weight_decay=0.1).optimizer.param_groups
    theirs = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.7)
    got = {id(p): (g["lr"], g["weight_decay"]) for g in ours for p in g["params"]}
    expected = {id(p): (0.5 * g["lr_scale"], g["weight_decay"]) for g in theirs for p in g["params"]}
    assert got.keys() == expected.keys()
    assert all(got[p] == pytest.approx(expected[p]) for p in got)


def test_layerwise_decay_trains_as_timm_does() -> None:
    """Three steps in float64 with timm's groups, their scale applied, end at the same weights."""
    from timm.optim._param_groups import param_groups_layer_decay

    ours, theirs = TIMM_RESNET.model(), TIMM_RESNET.model()
    tuning = recipes.layerwise_decay(ours, "fc", lr=0.01, decay=0.6, weight_decay=0.1)
    groups = param_groups_layer_decay(theirs, weight_decay=0.1, layer_decay=0.6)
    other = torch.optim.AdamW([{**g, "lr": 0.01 * g["lr_scale"]} for g in groups], lr=0.01)
    for step in range(3):
        for model, optimizer in ((ours, tuning.optimizer), (theirs, other)):
            images, labels = TIMM_RESNET.batch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("feature_extraction", {"lr": 0.0}, "learning rate 0: must be positive"),
        ("two_learning_rates", {"lr": 1e-3, "backbone_lr": 1e-2}, "backbone_lr=0.01 is above lr=0.001"),
        ("lp_ft", {"lr": 1e-3, "backbone_lr": 1e-2}, "slower than the head"),
        ("gradual_unfreezing", {"decay": 2.0}, r"decay=2: must lie in \(0, 1\]"),
        ("layerwise_decay", {"decay": 0.0}, r"decay=0: must lie in \(0, 1\]"),
    ],
)
def test_bad_rates_are_named(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(recipes, name)(CONVNET.model(), "fc", **keywords)


def test_an_unknown_head_lists_the_candidates() -> None:
    with pytest.raises(ValueError, match=r"ConvNet has no part called 'head'. Its linear layers, last first: fc$"):
        recipes.feature_extraction(CONVNET.model(), "head")
    with pytest.raises(ValueError, match="pool has no parameter left to train"):
        recipes.feature_extraction(CONVNET.model(), "pool")


def test_a_head_that_shares_weights_with_the_backbone_is_refused() -> None:
    model = TIED.model()
    with pytest.raises(ValueError, match=r"fc_mix shares stage2.0.weight with the backbone"):
        recipes.feature_extraction(model, "fc_mix")


def test_replaced_head_keeps_dtype_mode_and_place() -> None:
    model = TORCHVISION_VIT.model().eval()
    assert recipes.replace_head(model, "heads.head", 3) is model
    head = model.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    assert (head.out_features, head.weight.dtype, head.training) == (3, torch.float64, False)
    assert model(TORCHVISION_VIT.batch(0)[0]).shape == (6, 3)
    for arguments, message in ((("heads.head", 0), "num_classes=0"), (("encoder", 3), "only an nn.Linear")):
        with pytest.raises(ValueError, match=message):
            recipes.replace_head(model, *arguments)
    assert model.get_submodule("heads.head") is head


def test_another_recipe_lets_go_of_what_the_first_one_held() -> None:
    """Also on a copy of the network, which has copies of whatever holds it."""
    model = CONVNET.model()
    recipes.feature_extraction(model, "fc")
    model = copy.deepcopy(model)
    recipes.full_fine_tuning(model, "fc")
    before = model.state_dict()["stem.1.running_mean"].clone()
    model(CONVNET.batch(1)[0]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not torch.equal(model.state_dict()["stem.1.running_mean"], before)


def test_state_of_another_recipe_is_refused() -> None:
    state = recipes.lp_ft(CONVNET.model(), "fc").state_dict()
    with pytest.raises(ValueError, match="the state of lp_ft, not of full_fine_tuning"):
        recipes.full_fine_tuning(CONVNET.model(), "fc").load_state_dict(state)


def test_phases_end() -> None:
    tuning = recipes.lp_ft(CONVNET.model(), "fc")
    assert [tuning.advance(), tuning.advance(), tuning.phase] == [True, False, 1]
    with pytest.raises(ValueError, match="phase 2: lp_ft has 2, counted from 0"):
        tuning.enter(2)
