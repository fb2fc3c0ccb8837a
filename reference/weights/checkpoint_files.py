"""Reads weight files without executing pickled code, and loads them completely or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``torch.save`` file read with ``weights_only=True``.

    Raises FileNotFoundError, or ValueError for a file that is neither, that would have to be unpickled as code, or
    that holds something other than a dict of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise ValueError(f"{path}: not a file of plain tensors ({reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a dict of tensors by name, got {type(state).__name__}")
    return dict(state)


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into ``model``, converting to its dtype and device.

    All keys are checked first: for a missing or unexpected key, a wrong shape or a value that is not finite, ValueError
    names the keys and ``model`` is unchanged. (`nn.Module.load_state_dict` copies what fits before it raises.)
    BatchNorm's count of batches may be missing, as in old checkpoints.
    """
    own = model.state_dict()
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    faults = []
    if missing := [name for name in needed if name not in state]:
        faults.append(f"missing {_some(missing)}")
    if extra := [name for name in state if name not in own]:
        faults.append(f"not in the model {_some(extra)}")
    shapes = [
        f"{name} {tuple(state[name].shape)} (allowed: {tuple(value.shape)})"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if shapes:
        faults.append(f"of another shape {_some(shapes)}")
    broken = [n for n in own if n in state and state[n].is_floating_point() and not state[n].isfinite().all()]
    if broken:
        faults.append(f"not finite {_some(broken)}")
    if faults:
        raise ValueError(f"the weights do not fit {type(model).__name__}: {'; '.join(faults)}")
    with torch.no_grad():
        for name, value in own.items():
            if name in state:
                value.copy_(state[name])


def by_position(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the model's names, for weights whose tensors have the model's order but other names.

    Raises ValueError naming the first tensor whose shape differs, or both counts.
    """
    own = model.state_dict()
    for (name, value), (other, given) in zip(own.items(), state.items(), strict=False):
        if value.shape != given.shape:
            raise ValueError(f"{other} {tuple(given.shape)} stands where {name} {tuple(value.shape)} belongs")
    if len(own) != len(state):
        raise ValueError(f"{len(state)} tensors for a {type(model).__name__} of {len(own)}")
    return dict(zip(own, state.values(), strict=True))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
