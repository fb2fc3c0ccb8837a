"""How many copies of a network a verdict holds at a time, counted in bytes of living tensors."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.weight_transplant import transplant
from harness.checks.registry import find_check
from harness.subjects.loading import own_subjects
from suites.vit.architectures import FAMILY


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Our small Vision Transformer. What there was before is not counted."""
    gc.collect()
    gc.freeze()
    (subject,) = own_subjects(FAMILY, ("vit_tiny_8",))
    made = Bench(subject)
    yield made
    made.close()
    gc.unfreeze()


def storages(tensors: list[Tensor]) -> dict[int, int]:
    """Address -> bytes of the memory behind ``tensors``."""
    there = (t.untyped_storage() for t in tensors if t.device.type == "cpu")
    return {s.data_ptr(): s.nbytes() for s in there}


def alive() -> int:
    """Bytes behind the tensors that were made for the bench and are alive."""
    gc.collect()
    return sum(storages([o for o in gc.get_objects() if issubclass(type(o), Tensor)]).values())


def network(bench: Bench) -> int:
    """Bytes of the subject's parameters in float64."""
    return 8 * sum(p.numel() for p in transplant(bench).subject.parameters())


def test_the_references_have_one_memory_and_the_subject_its_own(bench: Bench) -> None:
    made = transplant(bench)
    assert len(made.grafted) > 1
    subject = storages(list(made.subject.parameters()))
    references = storages([p for g in made.grafted for p in g.model.parameters()])
    assert not subject.keys() & references.keys()
    assert sum(references.values()) < 1.01 * network(bench)
    for grafted in made.grafted:
        expected = grafted.alignment.to_reference(dict(made.subject.named_parameters()))
        assert all(torch.equal(expected[n], p) for n, p in grafted.model.named_parameters())


@pytest.mark.parametrize(
    ("check", "most"),
    [
        ("gradients", 3.5),  # the networks, and gradients to compare those of a pass with
        ("parity_eval", 3.5),
        ("parity_train", 3.5),
        ("parity_trajectory", 4.5),  # the weights before, and momenta
    ],
)
def test_a_pass_begins_with_few_networks_held(
    bench: Bench, check: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, logits = network(bench), Bench.logits
    bench.shared("original", bench._original)
    others = alive() - 2 * unit  # the subject and the references are held throughout
    held = []

    def counted(self: Bench, model: nn.Module, images: Tensor, *classes: int) -> Tensor:
        held.append((alive() - others) / unit)
        return logits(self, model, images, *classes)

    monkeypatch.setattr(Bench, "logits", counted)
    find_check(check, bench.family)(bench)
    assert max(held) < most


def test_what_no_later_check_needs_is_let_go(bench: Bench) -> None:
    unit = network(bench)
    for check in ("parity_photographs", "global_state", "initialisation", "state_dict_round_trip"):
        find_check(check, bench.family)(bench)
    for check in ("parity_float32", "parity_bfloat16"):
        find_check(check, bench.family)(bench)
    with_it = alive()
    bench.close()
    assert with_it - alive() < 3 * unit  # subject and references in float64, and what copies are made of in float32
