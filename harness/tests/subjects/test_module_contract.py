"""Methods of torch.nn.Module that a class defines itself, and that then are not called as everybody calls them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.errors import SubjectError
from harness.subjects.module_contract import expect_contract


class EvalGivesNothing(nn.Linear):
    def eval(self) -> Any:
        super().eval()


class TrainTakesNoMode(nn.Linear):
    def train(self) -> Any:  # type: ignore[override]
        return super().train(True)


class CopyInFloat(nn.Linear):
    def float(self) -> Any:
        return nn.Linear(2, 2)


class ZeroGradTakesNothing(nn.Linear):
    def zero_grad(self) -> None:  # type: ignore[override]
        super().zero_grad()


class NestedState(nn.Linear):
    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        return {"model": super().state_dict(*arguments, **keywords)}


class NoState(nn.Linear):
    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        return None


class NamesAlone(nn.Linear):
    def named_parameters(self, *arguments: Any, **keywords: Any) -> Any:
        return dict(super().named_parameters(*arguments, **keywords))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (EvalGivesNothing, r"mine: eval\(\) returns NoneType; expected the module itself"),
        (TrainTakesNoMode, r"mine: train\(True\) raised TypeError: .*; expected it to work as nn.Module's does"),
        (CopyInFloat, r"mine: float\(\) returns Linear; expected the module itself"),
        (ZeroGradTakesNothing, r"mine: zero_grad\(set_to_none=True\) raised TypeError"),
        (NestedState, r"mine: state_dict\(\) gives a dict of dicts; expected a dict of tensors by name"),
        (NoState, r"mine: state_dict\(\) gives NoneType"),
        (NamesAlone, r"mine: named_parameters\(\) gives str where pairs"),
    ],
)
def test_what_is_broken_is_named(kind: type[nn.Module], says: str) -> None:
    with pytest.raises(SubjectError, match=says):
        expect_contract("mine", kind(2, 2))


class FrozenNorms(nn.Sequential):
    """Overrides `train` as fine-tuning does, and `to` to look at what it is given."""

    def train(self, mode: bool = True) -> FrozenNorms:
        super().train(mode)
        self[1].eval()
        return self

    def to(self, *arguments: Any, **keywords: Any) -> FrozenNorms:
        return super().to(*arguments, **keywords)


def test_what_is_overridden_and_works_is_left_as_it_was() -> None:
    model = FrozenNorms(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    model.train()
    model[0].requires_grad_(False)
    before: dict[str, Tensor] = {n: t.clone() for n, t in model.state_dict().items()}
    expect_contract("mine", model)
    assert model[0].training
    assert not model[1].training
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
