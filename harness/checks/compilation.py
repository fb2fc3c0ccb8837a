"""`torch.export` and `torch.compile` give the same logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.bench.bench import CLASSES, Bench
from harness.bench.passes import float64_logits
from harness.bench.tolerances import expect_same_logits, rowwise
from harness.bench.weight_transplant import rounding_bound, transplant
from harness.errors import first_line
from harness.subjects.outputs import logits_of


class _LogitsOnly(nn.Module):
    """The subject with its logits for output: a dataclass can be returned, but not exported."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, `CLASSES`)."""
        return logits_of(self.model(images), CLASSES)


def check_export(bench: Bench) -> None:
    """``torch.export`` takes the module, and the exported program gives the same logits, also for another input."""
    made = transplant(bench)
    _skip_scripted(made.subject)
    one, two = (bench.images(2, made.side, seed=s) for s in (41, 42))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.export.export(_LogitsOnly(made.subject), (one,))
        except Exception as error:  # value-dependent control flow is legal Python, and can't be exported
            if _data_dependent(error):
                pytest.skip(f"not exportable: control flow depends on values ({type(error).__name__})")
            raise AssertionError(
                f"{bench.who}: torch.export raised {type(error).__name__}: {first_line(error)}"
            ) from error
        module = program.module()
    expect_agreement(bench, "exported by torch.export,", module, made.subject, (one, two))


def check_compile(bench: Bench) -> None:
    """``torch.compile`` gives the same logits in eval mode, also for a second input."""
    made = transplant(bench)
    _skip_scripted(made.subject)
    one, two = (bench.images(2, made.side, seed=s) for s in (43, 44))
    torch._dynamo.reset()
    compiled: Any = torch.compile(made.subject, backend=bench.compile_backend)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expect_agreement(bench, f"compiled ({bench.compile_backend}),", compiled, made.subject, (one, two))
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(
            f"{bench.who}: torch.compile raised {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        torch._dynamo.reset()


def _skip_scripted(model: nn.Module) -> None:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        pytest.skip("a module of torch.jit can't be exported or compiled: torch refuses it")


def expect_agreement(
    bench: Bench, how: str, changed: Callable[[Tensor], Any], model: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    """Raise AssertionError where ``changed``, what was made of ``model``, gives other logits for some input."""
    bound = max(rounding_bound(bench), 1e-5 if _lifts(bench) else 0.0)
    for images in inputs:
        expected = float64_logits(bench, model, images)
        with torch.no_grad():
            got = logits_of(changed(images), CLASSES)
        expect_same_logits(bench, how, got, expected, bound)


def _lifts(bench: Bench) -> bool:
    """Whether the subject casts some part to float32 on purpose, which `Float64Mode` can't undo in compiled code."""
    made = transplant(bench)
    images = bench.images(1, made.side, seed=45)
    with torch.no_grad():
        plain = bench.logits(made.subject, images).clone()
    return 1e-10 < rowwise(plain, float64_logits(bench, made.subject, images)) < 1e-5


def _data_dependent(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in ("DataDependent", "data-dependent", "GuardOnData", "Dynamic control flow"))
