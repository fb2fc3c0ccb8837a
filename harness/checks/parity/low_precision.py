"""Lower precisions, judged by the references' own error from float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench.bench import Bench, seeded
from harness.bench.passes import cotangent, load, run_pass, state
from harness.bench.tolerances import CEILING, relative, rowwise
from harness.bench.weight_transplant import Transplant, transplant
from harness.checks.parity.compare import (
    regularisation,
    with_rates,
)
from harness.errors import some_of
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode

MARGIN = 20.0
"""How much more than the references' rounding is granted: correct implementations that sum in another order were
within a factor of three, while one stage in half precision is off by a factor of a thousand and more."""
MARGIN_TRAINING = 100.0
"""The statistics of a small batch amplify rounding, and sums over it may be taken in several ways."""
MARGIN_BFLOAT16 = 8.0
"""Under autocast implementations differ in which operations they keep in float32, each worth a factor of two or so."""
SMOOTH = 1e-4
"""Of gradients in float32, where nothing branches: a hundred times what single operations are off by, and a tenth of
what one in bfloat16 is."""
EPSILON32 = 2.0**-23
EPSILON16 = 2.0**-8


def check_parity_float32(bench: Bench) -> None:
    """In float32 the subject is as near to the float64 answer as the references are."""

    def forward(model: nn.Module, images: Tensor) -> Tensor:
        return bench.logits(model, images.float())

    expect_precise_logits(bench, forward, "float32", MARGIN, 4 * EPSILON32)
    expect_precise_gradients(bench)
    expect_precise_training(bench)


def check_parity_bfloat16(bench: Bench) -> None:
    """Under bfloat16 autocast the subject is as near to the float64 answer as the references are."""

    def forward(model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return bench.logits(model, images.float())

    expect_precise_logits(bench, forward, "bfloat16 autocast", MARGIN_BFLOAT16, 2 * EPSILON16)
    expect_gradients_under_autocast(bench)
    made = transplant(bench)
    bench.drop(*(f"float32 {id(m)}" for m in (made.subject, *(g.model for g in made.grafted))))


def expect_precise_logits(
    bench: Bench, forward: Callable[[nn.Module, Tensor], Tensor], name: str, margin: float, least: float
) -> None:
    """Raise AssertionError where logits are off by more than ``margin`` times the references' error, and ``least``."""
    made = transplant(bench)
    images = bench.images(3, made.side, seed=11).float().double()  # representable: only the computing differs
    with torch.no_grad():
        exact = made.grafted[0].model(images)
        theirs = max(rowwise(forward(float32_of(bench, made, g.model), images), exact) for g in made.grafted)
        ours = rowwise(forward(float32_of(bench, made, made.subject), images), exact)
    bound = max(margin * theirs, least)
    bench.notes.update(error=ours, reference_error=theirs, bound=bound)
    if ours > bound:
        with torch.no_grad(), Float64Mode():
            wrong = rowwise(bench.logits(made.subject, images), exact)
        assert wrong <= CEILING, (
            f"{bench.who}: in {name} the logits are off by {ours:.1e} from the float64 answer, and in float64 by "
            f"{wrong:.1e} already: the network differs, whatever the precision (see parity_eval)"
        )
    assert ours <= bound, (
        f"{bench.who}: in {name} the logits are off by {ours:.1e} from the float64 answer, the references' by "
        f"{theirs:.1e}; expected at most {bound:.1e} (relative): a part computes in lower precision than it should"
    )


def expect_gradients_under_autocast(bench: Bench) -> None:
    """Raise AssertionError where a parameter gets no gradient under autocast in train mode, but does without."""
    made = transplant(bench)
    images = bench.images(2, made.side, seed=12).float()

    def missing(enabled: bool) -> set[str]:
        single = cast_to_float32(bench, made, made.subject).train()
        with seeded(bench.seed), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = bench.logits(single, images)
            bench.backward(torch.nn.functional.cross_entropy(logits, torch.arange(2)))
        return {n for n, p in single.named_parameters() if p.grad is None}

    unreached = missing(True)
    lost = sorted(unreached - missing(False)) if unreached else []
    assert not lost, (
        f"{bench.who}: in train mode under bfloat16 autocast no gradient reaches {some_of(lost)}; "
        "without autocast it does"
    )


def expect_precise_training(bench: Bench) -> None:
    """Raise AssertionError where a network lowers its precision in train mode, with every random draw controlled."""
    made = transplant(bench)
    elements, rates = regularisation(bench)
    reference = with_rates(bench, made, made.grafted[0], rates)
    images = bench.images(4, made.side, seed=13).float()

    how: Literal["scaled", "identity"] = "identity" if elements == "identity" else "scaled"

    def logits(model: nn.Module) -> Tensor:
        single = cast_to_float32(bench, made, model)
        with torch.no_grad(), ControlledRng(0.5, batch=len(images), elements=how, element_level=0.5):
            return bench.logits(single.train(), images)

    exact = run_pass(bench, reference.model, images.double(), train=True, elements=elements, gradients=False).logits
    theirs, ours = (rowwise(logits(model), exact) for model in (reference.model, made.subject))
    bound = max(MARGIN_TRAINING * theirs, 4 * EPSILON32)
    bench.notes.update(training_error=ours, training_bound=bound)
    assert ours <= bound, (
        f"{bench.who}: in float32 in train mode the logits are off by {ours:.1e} from the float64 ones, the "
        f"reference's by {theirs:.1e}; expected at most {bound:.1e} (relative): it lowers its precision to learn"
    )


def expect_precise_gradients(bench: Bench) -> None:
    """Raise AssertionError where gradients, as one vector, are off by more than the references' error allows.

    Rounding may flip a ReLU or a maximum, each worth a thousandth or so, hence the floor where there is one: what is
    looked for is a backward pass that differs in float32.
    """
    made = transplant(bench)
    grafted = made.grafted[0]
    images = bench.images(3, made.side, seed=11).float()

    def gradients(model: nn.Module) -> dict[str, Tensor]:
        single = float32_of(bench, made, model)
        logits = bench.logits(single, images)
        bench.backward(logits, cotangent(bench, logits))
        found = {n: p.grad for n, p in single.named_parameters() if p.grad is not None}
        single.zero_grad(set_to_none=True)
        return found

    with torch.no_grad(), Branching() as branching:
        for model in (grafted.model, made.subject):
            bench.logits(model, images.double())
    exact = run_pass(bench, grafted.model, images.double(), train=False).gradients
    expected = {n: g for n, g in exact.items() if g is not None}
    size = math.hypot(*(g.norm().item() for g in expected.values()))

    def error(found: dict[str, Tensor]) -> float:
        off = (relative(found[n], g, 1.0) if n in found else g.norm().item() for n, g in expected.items())
        return math.hypot(*off) / size

    theirs = error(gradients(grafted.model))
    ours = error(grafted.alignment.to_reference(gradients(made.subject)))
    bound = max(MARGIN * theirs, 0.05) if branching.seen else max(MARGIN_TRAINING * theirs, SMOOTH)
    bench.notes.update(gradient_error=ours, gradient_bound=bound)
    assert ours <= bound, (
        f"{bench.who}: in float32 the gradients are off by {ours:.1e} from the float64 ones, the reference's by "
        f"{theirs:.1e}; expected at most {bound:.1e} (relative): the backward pass differs in float32"
    )


def float32_of(bench: Bench, made: Transplant, model: nn.Module) -> nn.Module:
    """`cast_to_float32`, once for all checks."""
    single: nn.Module = bench.shared(f"float32 {id(model)}", lambda: cast_to_float32(bench, made, model))
    return single


def cast_to_float32(bench: Bench, made: Transplant, model: nn.Module) -> nn.Module:
    """A model of the transplant in float32, in eval mode; it is left as it is."""
    if model is not made.subject:
        cast: dict[int, Any] = {
            id(p): nn.Parameter(p.detach().float(), requires_grad=p.requires_grad) for p in model.parameters()
        }
        return copy.deepcopy(model, cast).float()  # of the parameters no copies in float64 are made on the way
    single = bench.small_copy().float().eval()
    for parameter in single.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    load(single, state(model))
    return single


KINKS = (
    *("relu", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "threshold", "hardtanh", "hardswish", "hardsigmoid"),
    *("elu", "celu", "selu", "softshrink", "hardshrink", "clamp", "clamp_min", "clamp_max", "abs", "sign", "sgn"),
    *("max", "min", "maximum", "minimum", "fmax", "fmin", "amax", "amin", "aminmax", "argmax", "argmin", "topk"),
    *("sort", "kthvalue", "median", "mode", "max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d"),
    *("gt", "lt", "ge", "le", "eq", "ne", "where", "masked_fill", "floor", "ceil", "round", "trunc", "heaviside"),
    *("mkldnn_max_pool2d", "quantile", "cummax", "cummin", "nonzero", "signbit", "frac", "fmod", "remainder"),
)
"""Names of torch's operators whose derivative jumps somewhere, or that decide by comparing values."""


class Branching(TorchDispatchMode):
    """Notes operators among `KINKS`, in place or not, in ``seen``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note the operator's name; pass it on."""
        name = func.__name__.split(".")[0].removesuffix("_")
        if name in KINKS:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))
