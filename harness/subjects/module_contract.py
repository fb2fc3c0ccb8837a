"""What everybody who calls a `torch.nn.Module` relies on, for classes that define such methods themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from harness.errors import SubjectError, first_line

Call = Callable[[Any], Any]

CHAINED: dict[str, tuple[str, Call]] = {
    "train": ("train(True)", lambda model: model.train(True)),
    "eval": ("eval()", lambda model: model.eval()),
    "requires_grad_": ("requires_grad_(True)", lambda model: model.requires_grad_(True)),
    "float": ("float()", lambda model: model.float()),
    "to": ("to(torch.float32)", lambda model: model.to(torch.float32)),
}
"""What returns the module itself, so that ``model = model.eval()`` works."""


def expect_contract(who: str, model: nn.Module) -> None:
    """Raise SubjectError where a method that ``model`` overrides takes other arguments, or gives something else.

    What it does is judged by the checks; here it is only about being callable as torch's documentation says.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return
    if _own(model, "named_parameters"):
        pairs = _called(who, "named_parameters()", lambda m: list(m.named_parameters()), model)
        if not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
            raise SubjectError(
                f"{who}: named_parameters() gives {type(pairs[0]).__name__} where pairs of a name and a parameter are "
                "expected"
            )
    found = _called(who, "modules()", lambda m: [x for x in m.modules() if isinstance(x, nn.Module)], model)
    modes = [(module, module.training) for module in found]
    parameters = _called(who, "parameters()", lambda m: list(m.parameters()), model)
    if not all(isinstance(p, torch.Tensor) for p in parameters):
        raise SubjectError(f"{who}: parameters() gives {type(parameters[0]).__name__}; expected tensors")
    _called(who, "repr()", repr, model)
    trained = [(p, p.requires_grad) for p in parameters] if _own(model, "requires_grad_") else []
    for name, (call, make) in CHAINED.items():
        if _own(model, name):
            returned = _called(who, call, make, model)
            if returned is not model:
                raise SubjectError(
                    f"{who}: {call} returns {type(returned).__name__}; expected the module itself, as nn.Module's does"
                )
    for module, training in modes:
        module.training = training
    for parameter, learns in trained:
        parameter.requires_grad_(learns)
    if _own(model, "zero_grad"):
        _called(who, "zero_grad(set_to_none=True)", lambda m: m.zero_grad(set_to_none=True), model)
    if _own(model, "state_dict"):
        given = _called(who, "state_dict()", lambda m: m.state_dict(), model)
        if not isinstance(given, Mapping) or any(isinstance(v, Mapping) for v in given.values()):
            what = "a dict of dicts" if isinstance(given, Mapping) else type(given).__name__
            raise SubjectError(f"{who}: state_dict() gives {what}; expected a dict of tensors by name")


def _own(model: nn.Module, name: str) -> bool:
    """Whether the class (or the instance) defines the method itself."""
    return name in vars(model) or getattr(type(model), name) is not getattr(nn.Module, name)


def _called(who: str, call: str, make: Call, model: nn.Module) -> Any:
    try:
        return make(model)
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{who}: {call} raised {type(error).__name__}: {first_line(error)}; expected it to work as nn.Module's does"
        ) from error
