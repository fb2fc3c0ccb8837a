"""A saved state dict, a copy and a pickle give the same network."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.passes import float64_logits
from harness.bench.tolerances import expect_same_logits
from harness.bench.weight_transplant import rounding_bound, transplant
from harness.checks.side_effects import fresh
from harness.errors import first_line, some_of


def check_state_dict_round_trip(bench: Bench) -> None:
    """``state_dict`` through a safetensors file into a second instance gives the same logits."""
    made = transplant(bench)
    images = bench.images(2, made.side, seed=40)
    expected = float64_logits(bench, made.subject, images)
    expect_same_inside_another(bench, made.subject, images, expected)
    saved = made.subject.state_dict()
    tensors = _savable(saved)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(tensors, path)
        loaded = load_file(path)
    extra = {n: value for n, value in saved.items() if n not in loaded}  # of get_extra_state: it may be anything
    second = fresh(bench).models[1].double().eval()
    bench.drop("fresh")  # it is changed from here on
    try:
        second.load_state_dict({**loaded, **extra})
    except RuntimeError as error:
        raise AssertionError(
            f"{bench.who}: a second instance refuses the first one's state_dict: {first_line(error)}"
        ) from error
    expect_strict(bench, second, {**loaded, **extra})
    del tensors, loaded
    expect_same_logits(
        bench,
        "in a second instance with the same state_dict",
        float64_logits(bench, second, images),
        expected,
        rounding_bound(bench),
        "something that acts on the output is neither a parameter nor a persistent buffer",
    )
    expect_picklable(bench, second, images, expected)
    expect_copy_apart(bench, second, images, expected)
    expect_assigned_state_used(bench, second, saved, images, expected)


def expect_strict(bench: Bench, model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Raise AssertionError where ``load_state_dict`` takes a missing or unknown name, or a tensor of another shape.

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


def expect_same_inside_another(bench: Bench, model: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Raise AssertionError where the model, inside another module, has other names or doesn't follow its mode."""
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
        f"{bench.who}: inside another module its state has {some_of(astray, 3)} too many or too few; "
        "expected each of its names behind that of the attribute which holds it, as nn.Module does it"
    )
    outer.train()
    outer.eval()
    expect_same_logits(
        bench,
        "inside another module that is put into train and into eval mode",
        float64_logits(bench, model, images),
        expected,
        rounding_bound(bench),
        "its eval() does what train(False), which a parent calls, does not",
    )
    model.eval()


def expect_picklable(bench: Bench, model: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Raise AssertionError where a pickle, as ``torch.save`` and other processes get it, gives other logits."""
    try:
        with tempfile.TemporaryFile() as file:  # pickle alone would keep the weights twice more in memory
            torch.save(model, file, pickle_protocol=pickle.HIGHEST_PROTOCOL)
            file.seek(0)
            again = torch.load(file, weights_only=False).double().eval()
    except Exception as error:  # it holds a lock or a lambda
        bench.notes["pickle"] = f"can't be pickled ({type(error).__name__})"
        return
    expect_same_logits(
        bench,
        "pickled and read again,",
        float64_logits(bench, again, images),
        expected,
        rounding_bound(bench),
        "its own __reduce__ or __getstate__ leaves something out",
    )


def expect_copy_apart(bench: Bench, model: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Raise AssertionError where a deep copy, as weight averaging makes, follows the original's parameters.

    Changes the parameters of ``model``.
    """
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # it holds a lock, a file, a tensor of some graph
        bench.notes["copy"] = f"can't be copied ({type(error).__name__})"
        return
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    expect_same_logits(
        bench,
        "in a deep copy, after the original's parameters were changed,",
        float64_logits(bench, twin, images),
        expected,
        rounding_bound(bench),
        "the copy computes with the original's layers (a closure or a bound method keeps them)",
    )


def expect_assigned_state_used(
    bench: Bench, model: nn.Module, tensors: Mapping[str, Any], images: Tensor, expected: Tensor
) -> None:
    """Raise AssertionError where a state that is assigned, not copied, isn't used.

    Models that are built on the meta device get their weights so.
    """
    given = {n: t.clone() if isinstance(t, Tensor) else t for n, t in tensors.items()}
    try:
        model.load_state_dict(given, assign=True)
    except Exception as error:  # a load_state_dict of its own that knows no such keyword
        bench.notes["assign"] = f"not taken ({type(error).__name__})"
        return
    expect_same_logits(
        bench,
        "after load_state_dict(assign=True)",
        float64_logits(bench, model, images),
        expected,
        rounding_bound(bench),
        "the forward pass uses tensors that were taken from its parameters before",
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
