"""A training's whole state in one safetensors file: nothing in it is unpickled, and it is there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SCHEMA = 1
MODEL, OPTIMIZER, GENERATOR = "model.", "optimizer.", "generator"


class CheckpointError(ValueError):
    """The checkpoint can't be used; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """``model`` by name; ``tuning`` as `FineTuning.state_dict` gives it; torch's ``generator``; and plain ``facts``
    (recipe, data, classes, epoch, step, history)."""

    model: Mapping[str, Tensor]
    tuning: Mapping[str, Any]
    generator: Tensor
    facts: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it beside ``path`` and put it in its place."""
    tensors = {MODEL + n: t.detach().cpu().contiguous().clone() for n, t in checkpoint.model.items()}
    plain: dict[str, dict[str, Any]] = {}
    optimizer = checkpoint.tuning["optimizer"]
    for number, state in optimizer["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{number}.{key}"] = value.detach().cpu().contiguous().clone()
            else:
                plain.setdefault(str(number), {})[key] = value
    tensors[GENERATOR] = checkpoint.generator
    facts = {
        "schema": SCHEMA,
        "facts": checkpoint.facts,
        "tuning": {n: v for n, v in checkpoint.tuning.items() if n != "optimizer"},
        "groups": optimizer["param_groups"],
        "plain": plain,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, partial, metadata={"training": json.dumps(facts)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote. Raises CheckpointError for another file, or one of a newer version."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of a training ({type(error).__name__})") from error
    if metadata["schema"] > SCHEMA:
        raise CheckpointError(f"{path}: written by a newer version (schema {metadata['schema']}, known: {SCHEMA})")
    state: dict[int, dict[str, Any]] = {int(n): dict(values) for n, values in metadata["plain"].items()}
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            number, _, key = name.removeprefix(OPTIMIZER).partition(".")
            state.setdefault(int(number), {})[key] = tensor
    return Checkpoint(
        model={n.removeprefix(MODEL): t for n, t in tensors.items() if n.startswith(MODEL)},
        tuning={**metadata["tuning"], "optimizer": {"state": state, "param_groups": metadata["groups"]}},
        generator=tensors[GENERATOR].to(torch.uint8),
        facts=metadata["facts"],
    )
