"""The shared checks: plain functions of a `harness.workbench.Workbench` that raise AssertionError.

`checks_for` gives what applies to an architecture: its family's own properties come after the shared checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.subjects.facts import Architecture, Family
    from harness.workbench import Workbench

    Check = Callable[[Workbench], None]

# By name, so that collecting tests imports neither torch nor the checks; in the order in which they are run.
SHARED = {
    "parameters": "facts",
    "multiply_adds": "facts",
    "shapes": "shapes",
    "shapes_on_values": "shapes",
    "global_state": "state",
    "device": "device",
    "initialisation": "initialisation",
    "scale": "extremes",
    "gradients": "gradients",
    "skip_gradient": "skips",
    "gradcheck": "gradients",
    "parity_eval": "parity",
    "parity_sizes": "parity",
    "parity_train": "training",
    "stochastic": "stochastic",
    "parity_trajectory": "training",
    "parity_float32": "precision",
    "parity_bfloat16": "precision",
    "parity_photographs": "precision",
    "batch_independence": "behaviour",
    "determinism": "behaviour",
    "no_cache": "behaviour",
    "input_untouched": "behaviour",
    "memory_format": "behaviour",
    "mode_switch": "modes",
    "nan_propagation": "extremes",
    "state_dict_round_trip": "state",
    "export": "state",
    "compile": "state",
}
BREADTH = ("parameters", "multiply_adds", "shapes")
"""What a large architecture is held to unless it is asked for by name."""


def check_names(family: Family, architecture: Architecture | None = None) -> Sequence[str]:
    """Names of the checks that ``architecture`` says apply to it: by default the shared ones and the family's own."""
    if architecture is not None and architecture.checks is not None:
        return architecture.checks
    return (*SHARED, *family.properties)


def find_check(name: str, family: Family) -> Check:
    """The function behind a check's name. Raises KeyError where there is none."""
    if name in SHARED and name not in family.properties:
        check: Check = getattr(import_module(f"harness.checks.{SHARED[name]}"), f"check_{name}")
        return check
    module = f"suites.{family.name}.properties"
    if name not in family.properties or find_spec(module) is None:
        raise KeyError(name)
    own: Check = getattr(import_module(module), f"check_{name}")
    return own
