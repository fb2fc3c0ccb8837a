from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.errors import RequestError, SubjectError
from harness.subjects.loading import check_patterns, families, family_of, given_subjects, import_subject, own_subjects
from harness.subjects.subject import label_of
from harness.tests.tiny import bench_of, family, subject_of


@pytest.fixture(autouse=True)
def modules_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("torch", "harness", "suites", "reference")):
            del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_an_alias_is_the_architecture(tmp_path: Path) -> None:
    spec = write(tmp_path / "aliased.py", "def vit_base_patch16_224(num_classes=1000): ...\n")
    (found,) = given_subjects(spec, family_of("vit"), ())
    assert (found.architecture.name, found.factory_name) == ("vit_b_16", "vit_base_patch16_224")
    assert found.id == "aliased:vit_b_16"
    assert found.who == "vit_b_16 of aliased"


def test_a_name_and_an_alias_that_build_different_things_are_two_subjects(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "both.py",
        "def vit_b_16(num_classes=1000): ...\n"
        "def vit_base_patch16_224(num_classes=1000): ...\n"
        "def vit_b_32(num_classes=1000): ...\n"
        "vit_base_patch32_224 = vit_b_32\n",
    )
    found = given_subjects(spec, family_of("vit"), ())
    assert [(s.id, s.factory_name) for s in found] == [
        ("both:vit_b_16", "vit_b_16"),
        ("both.vit_base_patch16_224:vit_b_16", "vit_base_patch16_224"),
        ("both:vit_b_32", "vit_b_32"),
    ]


def test_globs_select_by_name_and_alias() -> None:
    resnet, vit = family_of("resnet"), family_of("vit")
    assert [s.id for s in own_subjects(resnet, ("resnet1?",))] == ["resnet18"]
    assert [s.id for s in own_subjects(vit, ("vit_base_patch16*",))] == ["vit_b_16"]
    assert [s.id for s in own_subjects(resnet, ())] == ["resnet18", "resnet50"]
    assert len(own_subjects(resnet, (), everything=True)) == 5
    check_patterns(("resnet5?", "vit_b_16"), families())
    with pytest.raises(RequestError, match="resnet19"):
        check_patterns(("resnet18", "resnet19"), families())


def test_labels() -> None:
    assert label_of("some/folder/models.py") == "models"
    assert label_of("torchvision.models") == "torchvision.models"


def test_what_is_no_callable_is_no_subject(tmp_path: Path) -> None:
    spec = write(tmp_path / "constants.py", "resnet18 = 3\ndef resnet34(num_classes=1000): ...\n")
    assert [s.architecture.name for s in given_subjects(spec, family_of("resnet"), ())] == ["resnet34"]


def test_a_file_may_import_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "neighbouring_blocks.py", "WIDTH = 7\n")
    spec = write(tmp_path / "importing_models.py", "from neighbouring_blocks import WIDTH\n")
    assert import_subject(spec).WIDTH == 7


def test_two_files_of_one_stem_are_kept_apart(tmp_path: Path) -> None:
    specs = [write(tmp_path / name / "same_stem.py", f"WHERE = {name!r}\n") for name in ("first", "second")]
    assert [import_subject(s).WHERE for s in (*specs, *specs)] == ["first", "second", "first", "second"]


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    spec = write(tmp_path / "imported_once.py", "")
    assert import_subject(spec) is import_subject(spec)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('boom\\nmore')", "importing it raised RuntimeError: boom"),
        ("import not_there_at_all", "importing it raised ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import sys; sys.exit(3)", "importing it raised SystemExit: 3"),
        ("def broken(:", "importing it raised SyntaxError"),
    ],
)
def test_an_import_that_raises_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    spec = write(tmp_path / "raising_import.py", text)
    with pytest.raises(RequestError) as caught:
        import_subject(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "raising_import" not in sys.modules


def test_a_map_has_to_be_a_mapping() -> None:
    subject = subject_of(lambda num_classes: nn.Identity())
    assert subject.state_dict_map() is None
    subject.module().__dict__["tiny_state_dict_map"] = lambda: [("a", "b")]
    with pytest.raises(SubjectError, match=r"tiny of made: tiny_state_dict_map\(\) gave list, not a dict"):
        subject.state_dict_map()
    subject.module().__dict__["tiny_state_dict_map"] = lambda: {"a": "b"}
    assert subject.state_dict_map() == {"a": "b"}


def test_a_factory_that_gives_no_module() -> None:
    with pytest.raises(SubjectError, match=r"tiny of made: tiny\(\) gave int; expected a torch\.nn\.Module"):
        subject_of(lambda num_classes: 3).build()


def test_a_failed_build_is_not_tried_again() -> None:
    calls = []

    def failing(num_classes: int = 1000) -> nn.Module:
        calls.append(num_classes)
        raise RuntimeError("no such layer\nand a second line")

    bench = bench_of(failing)
    for _ in range(3):
        with pytest.raises(SubjectError, match=r"tiny\(num_classes=10\) raised RuntimeError: no such layer$"):
            bench.build(10)
    assert calls == [10]


class Patches(nn.Module):
    """A patch embedding whose position embedding depends on the image size."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, 8, 4, 4)
        self.position = nn.Parameter(torch.zeros((size // 4) ** 2, 8))
        self.head = nn.Linear(8, num_classes)


def named(num_classes: int = 1000, in_chans: int = 3, img_size: int = 32) -> nn.Module:
    return Patches(num_classes, in_chans, img_size)


def acting(num_classes: int = 1000, **kwargs: Any) -> nn.Module:
    known = {k: v for k, v in kwargs.items() if k in ("in_channels", "image_size")}
    if len(known) != len(kwargs):
        raise TypeError(f"unexpected keywords: {kwargs}")
    return Patches(num_classes, known.get("in_channels", 3), known.get("image_size", 32))


def swallowing(num_classes: int = 1000, **kwargs: Any) -> nn.Module:
    return Patches(num_classes, 3, 32)


def plain(num_classes: int = 1000) -> nn.Module:
    return Patches(num_classes, 3, 32)


@pytest.mark.parametrize(
    ("factory", "size", "channels"),
    [
        (named, "img_size", "in_chans"),
        (acting, "image_size", "in_channels"),
        (swallowing, None, None),
        (plain, None, None),
    ],
)
def test_keywords_are_used_where_they_act(factory: Any, size: str | None, channels: str | None) -> None:
    bench = bench_of(factory, patch=4, input_size=32)
    assert bench.size_keyword == size
    assert bench.channel_keyword == channels
    assert bench.small_side() == (12 if size else 32)


def test_no_size_is_asked_for_where_any_is_taken() -> None:
    bench = bench_of(named)
    assert bench.size_keyword is None
    assert bench.size == {}


def lazy(num_classes: int = 1000) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_are_materialised() -> None:
    model = bench_of(lazy).build(10)
    assert model.training
    assert {n: tuple(p.shape) for n, p in model.named_parameters()}["3.weight"] == (10, 400)
    assert not bool(model.get_buffer("1.running_mean").any()), "the norm has seen data"


def test_a_factory_that_needs_values_is_built_on_the_cpu() -> None:
    def scheduled(num_classes: int = 1000) -> nn.Module:
        return nn.Linear(len([r.item() for r in torch.linspace(0, 1, 4)]), num_classes)

    model = bench_of(scheduled).on_meta(10)
    assert all(p.is_meta for p in model.parameters())
    assert not model.training


def test_building_leaves_the_generator_alone() -> None:
    bench = bench_of(named)
    state = torch.get_rng_state()
    first, second = bench.build(10), bench.build(10)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.get_parameter("head.weight"), second.get_parameter("head.weight"))


def test_a_family_finds_by_name_and_alias() -> None:
    made = family()
    assert made.find("tiny") is made.find("tiny_patch4_12") is made.architectures[0]
    assert made.find("huge") is None
