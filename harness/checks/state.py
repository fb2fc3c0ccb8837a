"""What lies outside the forward pass: saved weights, export, compilation, global state."""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.checks.behaviour import _bound, _forward
from harness.checks.side_effects import expect_quiet_import, expect_seeds_to_hold, expect_settings
from harness.errors import first_line
from harness.process.global_state import draw, generators, restore, settings
from harness.subjects.outputs import logits_of
from harness.transplant import put_back, rowwise, transplant
from harness.workbench import CLASSES, Workbench


def check_state_dict_round_trip(bench: Workbench) -> None:
    """``state_dict`` through a safetensors file into a second instance gives the same logits."""
    made = transplant(bench)
    images = bench.images(2, made.side, seed=40)
    expected = _forward(bench, made.subject, images)
    _expect_the_same_inside_another(bench, made.subject, images, expected)
    saved = made.subject.state_dict()
    tensors = _savable(saved)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(tensors, path)
        loaded = load_file(path)
    extra = {n: value for n, value in saved.items() if n not in loaded}  # of get_extra_state: it may be anything
    second = bench.copied(fresh(bench).models[1], lambda: _built_from(bench, 2)).double().eval()
    try:
        second.load_state_dict({**loaded, **extra})
    except RuntimeError as error:
        raise AssertionError(
            f"{bench.who}: a second instance refuses the first one's state_dict: {first_line(error)}"
        ) from error
    expect_strict(bench, second, {**loaded, **extra})
    got, bound = _forward(bench, second, images), _bound(bench)
    off = rowwise(got, expected)
    assert off <= bound, (
        f"{bench.who}: a second instance with the same state_dict gives logits off by {off:.1e}, expected at most "
        f"{bound:.1e}: something that acts on the output is neither a parameter nor a persistent buffer"
    )
    _expect_pickled(bench, second, images, expected)
    _expect_copy_apart(bench, second, images, expected)
    _expect_assigned(bench, second, {**loaded, **extra}, images, expected)


def expect_strict(bench: Workbench, model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """``load_state_dict`` refuses a state that lacks a name, has another, or a tensor of another shape.

    Names are looked at from both ends, since it is the classifier that some loaders forgive, in the middle, and of the
    buffers the last one of several values, in a norm.
    """
    own = dict(model.named_parameters())
    parameters = [n for n in tensors if n in own] or [n for n, t in tensors.items() if t.is_floating_point()]
    buffers = [n for n, b in model.named_buffers() if n in tensors and b.numel() > 1]
    wrong = {"with a name that it does not have": {**tensors, "no.such.parameter": torch.zeros(1)}}
    inner = [parameters[len(parameters) * part // 4] for part in (1, 2, 3)]
    for name in dict.fromkeys((parameters[0], *inner, *parameters[-2:], *buffers[-1:])):
        tensor = tensors[name]
        longer = torch.cat((tensor, tensor[:1])) if tensor.ndim else tensor.expand(2)
        wrong[f"without {name}"] = {n: t for n, t in tensors.items() if n != name}
        wrong[f"with {name} of shape {tuple(longer.shape)} for {tuple(tensor.shape)}"] = {**tensors, name: longer}
    for what, given in wrong.items():
        try:
            model.load_state_dict(given)
        except Exception:
            continue
        raise AssertionError(
            f"{bench.who}: load_state_dict takes a state {what} and says nothing; expected an error, as strict loading "
            "gives it"
        )
    model.load_state_dict(tensors)


def _expect_the_same_inside_another(bench: Workbench, model: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Inside another module, as in a detector, it is saved under that one's names, and follows its mode."""
    if isinstance(model, torch.jit.ScriptModule):
        return
    outer, names = nn.ModuleDict({"inner": model}), list(model.state_dict())
    try:
        given = set(outer.state_dict())
    except Exception as error:
        raise AssertionError(
            f"{bench.who}: inside another module state_dict() raised {type(error).__name__}: {first_line(error)}"
        ) from error
    astray = sorted(given ^ {f"inner.{n}" for n in names})
    assert not astray, (
        f"{bench.who}: inside another module its state has {', '.join(astray[:3])}"
        f"{f' and {len(astray) - 3} more' if len(astray) > 3 else ''} too many or too few; expected each of its names "
        "behind that of the attribute which holds it, as nn.Module does it"
    )
    outer.train()
    outer.eval()
    off, bound = rowwise(_forward(bench, model, images), expected), _bound(bench)
    assert off <= bound, (
        f"{bench.who}: inside another module that is put into train and into eval mode, its logits are off by "
        f"{off:.1e}, expected at most {bound:.1e}: its eval() does what train(False), which a parent calls, does not"
    )
    model.eval()


def _expect_pickled(bench: Workbench, model: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Pickled, as ``torch.save`` and other processes get it, it is the same network."""
    try:
        again = pickle.loads(pickle.dumps(model, protocol=pickle.HIGHEST_PROTOCOL)).double().eval()
    except Exception as error:  # it holds a lock or a lambda
        bench.notes["pickle"] = f"can't be pickled ({type(error).__name__})"
        return
    off, bound = rowwise(_forward(bench, again, images), expected), _bound(bench)
    assert off <= bound, (
        f"{bench.who}: pickled and read again its logits are off by {off:.1e}, expected at most {bound:.1e}: its own "
        "__reduce__ or __getstate__ leaves something out"
    )


def _expect_copy_apart(bench: Workbench, model: nn.Module, images: Tensor, expected: Tensor) -> None:
    """A deep copy, such as averaged weights are kept in, computes with its own tensors: those of the original move."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # it holds a lock, a file, a tensor of some graph
        bench.notes["copy"] = f"can't be copied ({type(error).__name__})"
        return
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    off, bound = rowwise(_forward(bench, twin, images), expected), _bound(bench)
    assert off <= bound, (
        f"{bench.who}: after the original's parameters were changed, the logits of its deep copy are off by "
        f"{off:.1e}, expected at most {bound:.1e}: the copy computes with the original's layers (a closure or a bound "
        "method keeps them)"
    )


def _expect_assigned(
    bench: Workbench, model: nn.Module, tensors: Mapping[str, Any], images: Tensor, expected: Tensor
) -> None:
    """A state that is assigned, not copied (how models built on the meta device get their weights), is used."""
    given = {n: t.clone() if isinstance(t, Tensor) else t for n, t in tensors.items()}
    try:
        model.load_state_dict(given, assign=True)
    except Exception as error:  # a load_state_dict of its own that knows no such keyword
        bench.notes["assign"] = f"not taken ({type(error).__name__})"
        return
    off, bound = rowwise(_forward(bench, model, images), expected), _bound(bench)
    assert off <= bound, (
        f"{bench.who}: after load_state_dict(assign=True) the logits are off by {off:.1e}, expected at most "
        f"{bound:.1e}: the forward pass uses tensors that were taken from its parameters before"
    )


def _savable(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """What safetensors takes: contiguous tensors, of which no two share memory."""
    tensors: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in state_dict.items():
        if isinstance(tensor, Tensor):
            place = tensor.untyped_storage().data_ptr()
            tensors[name] = (tensor.clone() if place in taken else tensor).contiguous()
            taken.add(place)
    return tensors


class _LogitsOnly(nn.Module):
    """The subject with its logits for output: a dataclass can be returned, but not exported."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, `CLASSES`)."""
        return logits_of(self.model(images), CLASSES)


def check_export(bench: Workbench) -> None:
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
    _agree(bench, "exported by torch.export", module, made.subject, (one, two))


def check_compile(bench: Workbench) -> None:
    """``torch.compile`` gives the same logits in eval mode, also for a second input."""
    made = transplant(bench)
    _skip_scripted(made.subject)
    one, two = (bench.images(2, made.side, seed=s) for s in (43, 44))
    torch._dynamo.reset()
    compiled: Any = torch.compile(made.subject, backend=bench.compile_backend)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _agree(bench, f"compiled ({bench.compile_backend})", compiled, made.subject, (one, two))
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


def _agree(
    bench: Workbench, how: str, changed: Callable[[Tensor], Any], model: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    for images in inputs:
        expected = _forward(bench, model, images)
        with torch.no_grad():
            got = logits_of(changed(images), CLASSES)
        error, bound = rowwise(got, expected), max(_bound(bench), 1e-5 if _lifts(bench) else 0.0)
        assert error <= bound, (
            f"{bench.who}: {how}, the logits are off by {error:.1e}; expected at most {bound:.1e} (relative)"
        )


def _lifts(bench: Workbench) -> bool:
    """Whether the subject computes some part in float32 on purpose, which compiled code is not lifted from."""
    made = transplant(bench)
    images = bench.images(1, made.side, seed=45)
    with torch.no_grad():
        plain = bench.logits(made.subject, images).clone()
    return 1e-10 < rowwise(plain, _forward(bench, made.subject, images)) < 1e-5


def _data_dependent(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in ("DataDependent", "data-dependent", "GuardOnData", "Dynamic control flow"))


@dataclass(frozen=True)
class Fresh:
    """Two instances built from different seeds, and a number from each generator right after each was built."""

    models: tuple[nn.Module, nn.Module]
    drawn: tuple[Mapping[str, float], Mapping[str, float]]


def fresh(bench: Workbench) -> Fresh:
    """Built once for all checks of freshly built models; building is where global state is watched first."""

    def make() -> Fresh:
        before, models, drawn = settings(), [], []
        try:
            for start in (1, 2):
                with generators(bench.seed + start):
                    models.append(bench.build(CLASSES, seeding=False, **bench.size))
                    drawn.append(draw())
                expect_settings(bench.who, before, "building it")
        finally:
            restore(before)
        return Fresh((models[0], models[1]), (drawn[0], drawn[1]))

    built: Fresh = bench.shared("fresh", make)
    return built


def _built_from(bench: Workbench, start: int) -> nn.Module:
    """As `fresh` builds it."""
    with generators(bench.seed + start):
        return bench.build(CLASSES, seeding=False, **bench.size)


def check_global_state(bench: Workbench) -> None:
    """Building and calling changes no process-wide setting, and seeds no generator (torch's, Python's, NumPy's)."""
    expect_quiet_import(bench.subject)
    built = fresh(bench)
    expect_seeds_to_hold(bench.who, built.drawn, "building it")
    model, before = built.models[0], settings()
    images = bench.images(4, bench.small_side(), seed=46).float()
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    drawn = []
    try:
        for start in (1, 2):
            with generators(bench.seed + start):
                bench.logits(model.eval(), images)  # under no_grad a change of the gradient mode would be undone
                expect_settings(bench.who, before, "a forward pass in eval mode")
                bench.backward(bench.logits(model.train(), images).sum())
                expect_settings(bench.who, before, "a training step")
                drawn.append(draw())
    finally:
        restore(before)
        model.zero_grad(set_to_none=True)
        put_back(model, buffers)
    expect_seeds_to_hold(bench.who, drawn, "its forward pass")
