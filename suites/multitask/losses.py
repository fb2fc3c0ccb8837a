"""What a combined loss and learnt weights promise, against formulas written out here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.reproduce import describe_failure
from harness.strategies import examples
from harness.subjects import SubjectError, first_line
from harness.workbench import Workbench
from suites.multitask.model import TASKS, WEIGHTS, Outputs

ROUNDING = 1e-6
"""Relative, in float64. Sums of a few hundred terms round below 1e-13, and a guard against division by zero (1e-8 is
usual) moves a cosine by as much; what is wrong shows above 1e-3."""
WIDTHS = (10, 4, 128)
OUT_OF_RANGE = 10
Masks = tuple[Tensor, Tensor, Tensor]


def drawn(batch: int, seed: int = 0) -> tuple[Outputs, tuple[Tensor, Tensor, Tensor]]:
    """Outputs that require gradients and targets of a batch, float64; the embedding target is not of unit length."""
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randn(batch, w, generator=generator, dtype=torch.float64) for w in WIDTHS]
    raw[2] = F.normalize(raw[2], dim=1)
    classes = torch.randint(WIDTHS[0], (batch,), generator=generator)
    box, embedding = (torch.randn(batch, w, generator=generator, dtype=torch.float64) for w in WIDTHS[1:])
    return Outputs(*(t.requires_grad_() for t in raw)), (classes, box, 2.0 * embedding)


def by_hand(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The three losses from their definitions; zero for a task without labels."""
    losses = []
    for task, output, target, mask in zip(TASKS, outputs, targets, masks or (None,) * 3, strict=True):
        kept, wanted = (output, target) if mask is None else (output[mask], target[mask])
        if not len(kept):
            losses.append(output.sum() * 0)
        elif task == "classes":
            losses.append((kept.exp().sum(1).log() - kept.gather(1, wanted[:, None])[:, 0]).mean())
        elif task == "box":
            losses.append(((kept - wanted) ** 2).sum() / kept.numel())
        else:
            losses.append((1 - (kept * wanted).sum(1) / (kept.norm(dim=1) * wanted.norm(dim=1))).mean())
    return losses


def combined(losses: Sequence[Tensor], weights: Sequence[float] = WEIGHTS) -> Tensor:
    """Their weighted sum."""
    return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()


def loss(bench: Workbench, *arguments: object, **keywords: object) -> Tensor:
    """Call the subject's loss. Raises SubjectError where it raises or gives no scalar."""
    try:
        value = bench.subject.factory(*arguments, **keywords)
    except Exception as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}(outputs, targets{', masks' if len(arguments) > 2 else ''}"
            f"{''.join(f', {k}={v}' for k, v in keywords.items())}) raised {type(error).__name__}: {first_line(error)}"
        ) from error
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    assert shape == (), f"{bench.who}: gave {shape}; expected a scalar tensor, which backward() can start from"
    assert isinstance(value, Tensor)
    return value


def _gradients(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    if not value.requires_grad:
        return [None for _ in inputs]
    return list(torch.autograd.grad(value, list(inputs), allow_unused=True, retain_graph=True))


def _assert_same(bench: Workbench, what: str, value: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    is_, should = float(value.detach()), float(expected.detach())
    off = abs(is_ - should) / max(1.0, abs(should))
    assert off <= ROUNDING, f"{bench.who}: {what}, the loss is {is_:.6g}; expected {should:.6g}"
    pairs = zip(TASKS, _gradients(value, inputs), _gradients(expected, inputs), strict=True)
    for task, got, wanted in pairs:
        assert wanted is not None
        if got is None:
            raise AssertionError(f"{bench.who}: {what}, no gradient reaches the output of {task}; expected one")
        assert got.isfinite().all(), f"{bench.who}: {what}, the gradient of {task} is not finite"
        error = float((got - wanted).norm()) / max(float(wanted.norm()), 1e-6)
        assert error <= ROUNDING, f"{bench.who}: {what}, the gradient of {task} is off by {error:.1e} (relative)"


def check_loss_value(bench: Workbench) -> None:
    """A scalar, and with its gradients the weighted sum (1, 0.5, 0.2) of cross-entropy, mean squared error and one
    minus the cosine similarity, each the mean over the batch, for batches of 1 to 7."""
    for batch in (1, 2, 7):
        outputs, targets = drawn(batch, seed=batch)
        expected = combined(by_hand(outputs, targets))
        _assert_same(bench, f"for a batch of {batch}", loss(bench, outputs, targets), expected, outputs)


def check_loss_weights(bench: Workbench) -> None:
    """``weights`` multiply each task's loss and nothing else; zero switches a task off."""
    outputs, targets = drawn(4)
    for weights in ((2.0, 0.5, 0.2), (1.0, 3.0, 0.2), (1.0, 0.5, 4.0), (0.0, 1.0, 1.0), (0.3, 0.0, 0.7)):
        expected = combined(by_hand(outputs, targets), weights)
        got = loss(bench, outputs, targets, weights=weights)
        _assert_same(bench, f"with weights={weights}", got, expected, outputs)


def _missing(targets: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Targets with what a data set has in place of a missing label: NaN, and -1 for a class."""
    classes, box, embedding = targets
    return (
        classes.masked_fill(~masks[0], -1),
        box.masked_fill(~masks[1][:, None], float("nan")),
        embedding.masked_fill(~masks[2][:, None], float("nan")),
    )


def check_masked_tasks(bench: Workbench) -> None:
    """For drawn batches and patterns of missing labels, each task's loss is the mean over the images that have its
    label; NaN in place of a missing label reaches neither the loss nor a gradient."""

    @examples(0.3)
    @given(st.integers(1, 5).flatmap(lambda n: st.lists(st.tuples(*[st.booleans()] * 3), min_size=n, max_size=n)))
    def masked(pattern: list[tuple[bool, bool, bool]]) -> None:
        masks = [torch.tensor(column) for column in zip(*pattern, strict=True)]
        if not any(mask.any() for mask in masks):
            return
        outputs, targets = drawn(len(pattern), seed=1)
        expected = combined(by_hand(outputs, targets, masks))
        got = loss(bench, outputs, _missing(targets, masks), tuple(masks))
        present = ", ".join(f"{t} {m.int().tolist()}" for t, m in zip(TASKS, masks, strict=True))
        _assert_same(bench, f"with labels for {present}", got, expected, outputs)

    describe_failure(bench, masked)


def check_absent_task(bench: Workbench) -> None:
    """A task that no image has a label for adds zero, and its output stays connected with a gradient of zero: a
    parameter without gradient would stall distributed training."""
    outputs, targets = drawn(3)
    for absent, task in enumerate(TASKS):
        masks = [torch.full((3,), number != absent) for number in range(len(TASKS))]
        got = loss(bench, outputs, _missing(targets, masks), tuple(masks))
        what = f"with no label for {task}"
        assert got.isfinite(), f"{bench.who}: {what} the loss is {float(got.detach())}; expected the other tasks' sum"
        expected = combined(by_hand(outputs, targets, masks))
        _assert_same(bench, what, got, expected, outputs)


def check_trunk_gradient(bench: Workbench) -> None:
    """The gradient of a trunk under three heads is the weighted sum of the tasks' gradients, a head's is its own."""
    generator = torch.Generator().manual_seed(2)
    trunk = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    heads = [torch.randn(5, w, generator=generator, dtype=torch.float64).requires_grad_() for w in WIDTHS]
    features = torch.randn(4, 6, generator=generator, dtype=torch.float64) @ trunk
    raw = [features.tanh() @ head for head in heads]
    outputs = Outputs(raw[0], raw[1], F.normalize(raw[2], dim=1))
    _, targets = drawn(4)
    value = loss(bench, outputs, targets)
    got, *own = _gradients(value, [trunk, *heads])
    single = [torch.autograd.grad(t, trunk, retain_graph=True)[0] for t in by_hand(outputs, targets)]
    expected = torch.stack([w * g for w, g in zip(WEIGHTS, single, strict=True)]).sum(0)
    assert got is not None, f"{bench.who}: no gradient reaches the trunk"
    error = float((got - expected).norm() / expected.norm())
    assert error <= ROUNDING, (
        f"{bench.who}: the trunk's gradient is off by {error:.1e} from the weighted sum of the tasks' gradients"
    )
    for task, head, gradient, task_loss, weight in zip(
        TASKS, heads, own, by_hand(outputs, targets), WEIGHTS, strict=True
    ):
        wanted = weight * torch.autograd.grad(task_loss, head, retain_graph=True)[0]
        assert gradient is not None, f"{bench.who}: no gradient reaches the head of {task}"
        error = float((gradient - wanted).norm() / wanted.norm())
        assert error <= ROUNDING, f"{bench.who}: the gradient of the head of {task} is off by {error:.1e}"


def check_bad_labels(bench: Workbench) -> None:
    """A class that there is none of, and a batch without any label, raise an error."""
    outputs, (classes, box, embedding) = drawn(3)
    wrong = classes.clone()
    wrong[1] = OUT_OF_RANGE
    nothing = tuple(torch.zeros(3, dtype=torch.bool) for _ in TASKS)
    calls: dict[str, Callable[[], Tensor]] = {
        f"class {OUT_OF_RANGE} of {WIDTHS[0]}": lambda: bench.subject.factory(outputs, (wrong, box, embedding)),
        "every task masked for every image": lambda: bench.subject.factory(outputs, (classes, box, embedding), nothing),
    }
    for what, call in calls.items():
        try:
            value = call()
        except Exception:
            continue
        raise AssertionError(f"{bench.who}: {what} gave {value}; expected an error")


def _weighting(bench: Workbench, tasks: int = 3) -> nn.Module:
    given = (tasks,) if inspect.signature(bench.subject.factory).parameters else ()
    try:
        made = bench.subject.factory(*given)
    except Exception as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}({tasks}) raised {type(error).__name__}: {first_line(error)}"
        ) from error
    assert isinstance(made, nn.Module), f"{bench.who}: gave {type(made).__name__}; expected a torch.nn.Module"
    return made.double()


def _weighted(bench: Workbench, module: nn.Module, log_variances: Sequence[float], losses: Tensor) -> Tensor:
    """The module's value with its parameters set, in their order, to ``log_variances``."""
    values = torch.tensor(list(log_variances), dtype=torch.float64)
    at = 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(values[at : at + parameter.numel()].view(parameter.shape))
            at += parameter.numel()
    try:
        value = module(losses)
    except Exception as error:
        raise SubjectError(f"{bench.who}: raised {type(error).__name__}: {first_line(error)}") from error
    assert isinstance(value, Tensor), f"{bench.who}: gave {type(value).__name__}; expected a scalar tensor"
    assert value.numel() == 1, f"{bench.who}: gave a tensor {tuple(value.shape)}; expected a scalar"
    return value.reshape(())


def check_log_variances(bench: Workbench) -> None:
    """One trainable number per task, among the module's parameters, where an optimizer finds it."""
    module = _weighting(bench)
    sizes = [p.numel() for p in module.parameters() if p.requires_grad]
    assert sum(sizes) == len(TASKS), (
        f"{bench.who}: has {sum(sizes)} trainable numbers for {len(TASKS)} tasks; expected one log-variance for each, "
        "as parameters"
    )


def check_weighted_sum(bench: Workbench) -> None:
    """Each loss is weighted by c exp(-s) for its own log-variance s, c being 1 or (for regression) 1/2.

    That is positive for any s. The rest is b times s for each task, b being 1/2 or 1: without it the weights would go
    to zero.
    """
    check_log_variances(bench)
    module = _weighting(bench)
    losses = torch.tensor([0.7, 2.0, 0.1], dtype=torch.float64)
    for values in ((0.0, 0.0, 0.0), (1.0, -2.0, 0.5), (-3.0, 3.0, 0.0)):
        given_losses = losses.clone().requires_grad_()
        value = _weighted(bench, module, values, given_losses)
        assert value.requires_grad, f"{bench.who}: the value carries no gradient"
        (weights,) = torch.autograd.grad(value, given_losses, allow_unused=True)
        assert weights is not None, f"{bench.who}: the value does not depend on the losses"
        plain = torch.exp(-torch.tensor(values, dtype=torch.float64))
        factors = (weights / plain).tolist()
        assert all(min(abs(f - 1.0), abs(f - 0.5)) < ROUNDING for f in factors), (
            f"{bench.who}: with log-variances {values} the losses are weighted by {_list(weights)}; expected exp(-s), "
            f"which is {_list(plain)}, or half of it"
        )
    for task in range(len(TASKS)):
        unit = [1.0 if number == task else 0.0 for number in range(len(TASKS))]
        zero = torch.zeros(len(TASKS), dtype=torch.float64)
        step = [float(_weighted(bench, module, [a * u for u in unit], zero).detach()) for a in (0.0, 1.0, 2.0)]
        slope = step[1] - step[0]
        assert abs(step[2] - step[1] - slope) < ROUNDING, (
            f"{bench.who}: the price of a log-variance is not linear in it"
        )
        assert min(abs(slope - 0.5), abs(slope - 1.0)) < ROUNDING, (
            f"{bench.who}: task {task} pays {slope:.3g} for each unit of log-variance; expected 1/2 (or 1), or its "
            "weight goes to zero, or below"
        )


def check_weighting_learns(bench: Workbench) -> None:
    """The gradient of every log-variance is the derivative of the value: nothing is cut off."""
    check_log_variances(bench)
    module = _weighting(bench)
    losses = torch.tensor([0.7, 2.0, 0.1], dtype=torch.float64)
    values = [0.3, -0.4, 0.2]
    module.zero_grad()
    value = _weighted(bench, module, values, losses)
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else [None] * 9
    missing = [n for (n, _), g in zip(module.named_parameters(), gradients, strict=False) if g is None]
    assert not missing, f"{bench.who}: {', '.join(missing)} receives no gradient, so that it is not learnt"
    flat = torch.cat([g.reshape(-1) for g in gradients if g is not None])
    step = 1e-5
    for task in range(len(TASKS)):
        ends = [
            float(_weighted(bench, module, [v + d * (n == task) for n, v in enumerate(values)], losses).detach())
            for d in (-step, step)
        ]
        slope = (ends[1] - ends[0]) / (2 * step)
        assert abs(float(flat[task]) - slope) < 1e-6, (
            f"{bench.who}: the gradient of log-variance {task} is {float(flat[task]):.4g}; expected {slope:.4g}"
        )


def _list(values: Tensor) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values.tolist()) + ")"
