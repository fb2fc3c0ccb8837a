"""Names and order of the checks, and the function behind each name. Imports no torch.

A check is a function of a `harness.bench.bench.Bench` that raises AssertionError. A family's own checks come after the
shared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.bench.bench import Bench
    from harness.subjects.facts import Architecture, Family

    Check = Callable[[Bench], None]

# By name, so that collecting tests imports neither torch nor the checks; in the order in which they are run.
SHARED = {
    "parameters": "counts",
    "multiply_adds": "counts",
    "shapes": "shapes",
    "shapes_on_values": "shapes",
    "global_state": "side_effects",
    "device": "side_effects",
    "initialisation": "initialisation",
    "scale": "extremes",
    "gradients": "gradients",
    "skip_gradient": "gradient_flow",
    "gradcheck": "gradients",
    "parity_eval": "parity.eval_mode",
    "parity_sizes": "parity.eval_mode",
    "parity_train": "parity.train_mode",
    "stochastic": "parity.stochastic",
    "parity_trajectory": "parity.train_mode",
    "parity_float32": "parity.low_precision",
    "parity_bfloat16": "parity.low_precision",
    "parity_photographs": "parity.eval_mode",
    "batch_independence": "independence",
    "determinism": "independence",
    "no_cache": "independence",
    "input_untouched": "side_effects",
    "memory_format": "independence",
    "mode_switch": "modes",
    "nan_propagation": "extremes",
    "state_dict_round_trip": "saving",
    "export": "compilation",
    "compile": "compilation",
}
BREADTH = ("parameters", "multiply_adds", "shapes")
"""What a large architecture is held to unless it is asked for by name."""


def check_names(family: Family, architecture: Architecture | None = None) -> Sequence[str]:
    """Names of the checks that ``architecture`` says apply to it: by default the shared ones and the family's own."""
    if architecture is not None and architecture.checks is not None:
        return architecture.checks
    return (*SHARED, *family.own_checks)


def find_check(name: str, family: Family) -> Check:
    """The function behind a check's name. Raises KeyError where there is none."""
    if name in SHARED and name not in family.own_checks:
        check: Check = getattr(import_module(f"harness.checks.{SHARED[name]}"), f"check_{name}")
        return check
    module = f"suites.{family.name}.checks"
    if name not in family.own_checks or find_spec(module) is None:
        raise KeyError(name)
    own: Check = getattr(import_module(module), f"check_{name}")
    return own
