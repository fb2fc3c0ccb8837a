"""What an alignment shows of two models, and what is said where they can't be aligned."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from reference.alignment.graph import dataflow, elements, trace
from reference.alignment.locate import first_difference
from reference.alignment.match import align as align_module
from reference.alignment.match import matching
from reference.alignment.match.align import AlignmentError, align
from reference.alignment.read import reader
from reference.tests import written_attention as wa
from reference.tests import written_transformers as wt
from reference.tests.transplanting import assert_equal_function, small_transformer, state
from suites.resnet import model as our_resnets

PAGE = Path(reader.__file__).parents[1] / "ALGORITHM.md"
SHOWN = (trace, elements, dataflow, reader, matching, align_module, first_difference)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_page_on_the_algorithm_shows_what_the_code_does() -> None:
    blocks = re.findall(r"^```(python|pycon)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    names = {name: value for module in SHOWN for name, value in vars(module).items()}
    names |= {"torch": torch, "nn": nn, "F": nn.functional}
    exec("\n".join(text for kind, text in blocks if kind == "python"), names)
    shown = "\n".join(text for kind, text in blocks if kind == "pycon")
    example = doctest.DocTestParser().get_doctest(shown, names, PAGE.name, str(PAGE), 0)
    output: list[str] = []
    result = doctest.DocTestRunner().run(example, out=output.append)
    assert result.attempted > 15
    assert not result.failed, "".join(output)


def test_table_lists_every_layer_in_the_references_order(images: Tensor) -> None:
    alignment = assert_equal_function(our_resnets.resnet18(10), torchvision.models.resnet18(num_classes=10), images)
    names = [layer.reference for layer in alignment.layers]
    assert names[:3] == ["conv1", "bn1", "layer1.0.conv1"]
    assert names[-1] == "fc"
    assert all(a.subject and a.reference != b.reference for a, b in pairwise(alignment.layers))
    assert alignment.layers[0].subject_hyper["stride"] == (2, 2)
    assert alignment.subject_names("layer1.0.conv1.weight") == ("stages.0.0.conv1.weight",)


def test_models_are_left_as_they_were(images: Tensor) -> None:
    subject, reference = our_resnets.resnet18(10), torchvision.models.resnet18(num_classes=10)
    subject.train()
    subject.stem.eval()
    before = {name: tensor.clone() for name, tensor in subject.state_dict().items()}
    modes = [module.training for module in subject.modules()]
    random = torch.random.get_rng_state()
    align(subject, reference, images)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert modes == [module.training for module in subject.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in subject.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in subject.parameters())


def extra_layer(model: Any) -> None:
    model.head = nn.Sequential(nn.Linear(512, 512), model.head)


def missing_norm(model: Any) -> None:
    model.stages[1][0].norm1 = nn.Identity()


def extra_bias(model: Any) -> None:
    model.stages[1][0].conv1 = nn.Conv2d(64, 128, 3, 2, 1)


def idle_parameter(model: Any) -> None:
    model.spare = nn.Linear(7, 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (extra_layer, r"Only the subject has .*: head.0.weight \(512, 512\), head.0.bias \(512,\)\."),
        (missing_norm, r"Only the reference has .*: layer2.0.bn1.weight \(128,\), layer2.0.bn1.bias \(128,\)"),
        (extra_bias, r"Only the subject has .*: stages.1.0.conv1.bias \(128,\)\."),
        (idle_parameter, r"Used by no operation of the subject's forward pass: spare.weight \(7, 7\), spare.bias"),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_the_message_says_what_each_has(change: Callable[[Any], None], said: str, images: Tensor) -> None:
    subject = our_resnets.resnet18(10)
    change(subject)
    with pytest.raises(AlignmentError) as caught:
        align(subject, torchvision.models.resnet18(num_classes=10), images)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert "state_dict_map" in str(caught.value)
    assert caught.value.alignment is not None
    assert len(caught.value.alignment.layers) >= 41


def test_a_projection_without_bias_is_named() -> None:
    class Unbiased(wa.FusedAttention):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(wa.WIDTH, 3 * wa.WIDTH, bias=False)

    with pytest.raises(AlignmentError, match=r"encoder_layer_0\.self_attention\.in_proj_bias"):
        align(wt.WrittenTransformer(attention=Unbiased), small_transformer(), torch.randn(1, 3, 32, 32))


def test_lazy_modules_are_told_to_run_first(images: Tensor) -> None:
    with pytest.raises(AlignmentError, match=r"subject's 0.weight has no shape yet"):
        align(nn.Sequential(nn.LazyConv2d(8, 3)), torchvision.models.resnet18(), images)


def test_a_map_must_name_what_is_there(images: Tensor) -> None:
    with pytest.raises(AlignmentError, match="the subject has no 'nothing'"):
        align(
            our_resnets.resnet18(10), torchvision.models.resnet18(), images, state_dict_map={"conv1.weight": "nothing"}
        )  # fmt: skip


def test_a_map_settles_what_structure_leaves_open(images: Tensor) -> None:
    """Two equal branches that are added can be told apart by a map only."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    names = {"a.weight": "b.weight", "a.bias": "b.bias", "b.weight": "a.weight", "b.bias": "a.bias"}
    carried = align(Branches(), reference := Branches(), images, state_dict_map=names).to_subject(state(reference))
    assert torch.equal(carried["a.weight"], reference.b.weight)


def test_a_tensor_of_another_shape_is_refused(images: Tensor) -> None:
    alignment = align(our_resnets.resnet18(10), torchvision.models.resnet18(num_classes=10), images)
    with pytest.raises(ValueError, match=r"stem.0.weight: shape \(3,\), expected \(64, 3, 7, 7\)"):
        alignment.to_reference({"stem.0.weight": torch.zeros(3)})
    assert alignment.to_reference({}) == {}


@dataclass
class Answer:
    logits: Tensor
    steps: int


class Steered(our_resnets.ResNet):
    """A structured output, data-dependent control flow, unused buffers, and an output kept for later."""

    def __init__(self) -> None:
        super().__init__(our_resnets.BasicBlock, (2, 2, 2, 2), num_classes=10)
        self.register_buffer("mask", torch.ones(5, 5))
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.kept: Tensor | None = None
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        if not bool(torch.isfinite(x).all()) or float(self.stem[0](x).abs().sum()) == 0:
            raise ValueError("numbers expected")
        self.calls += 1
        self.kept = super().forward(x)
        self.seen.append(self.kept)
        return Answer(self.kept, 1)


def test_misbehaving_subjects_align_and_are_left_as_they_were(images: Tensor) -> None:
    subject = Steered()
    align(subject, torchvision.models.resnet18(num_classes=10), images)
    assert subject.kept is None
    assert subject.seen == []
    assert subject.calls.item() == 0
    assert subject.training


def test_names_that_mislead_do_not_mislead(images: Tensor) -> None:
    """torchvision's names, with two equal blocks used in the other order."""

    class Exchanged(torchvision.models.ResNet):  # type: ignore[misc]  # torchvision has no annotations
        def _forward_impl(self, x: Tensor) -> Tensor:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer1[0](self.layer1[1](x))
            return self.fc(self.avgpool(self.layer4(self.layer3(self.layer2(x)))).flatten(1))

    subject = Exchanged(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=10)
    alignment = assert_equal_function(subject, torchvision.models.resnet18(num_classes=10), images)
    assert alignment.subject_names("layer1.0.conv1.weight") == ("layer1.1.conv1.weight",)
