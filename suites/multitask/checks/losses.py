"""What a combined loss and learnt weights promise, against formulas written out here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.bench.bench import Bench
from harness.bench.drawn_examples import describe_failure, examples
from harness.checks.side_effects import expect_no_trace, expect_quiet_import
from harness.errors import SubjectError, first_line
from suites.multitask.model import TASKS, WEIGHTS, Outputs

ROUNDING = 1e-6
"""Relative, in float64. Sums of a few hundred terms round below 1e-13, and a guard against division by zero (1e-8 is
usual) moves a cosine by as much; what is wrong shows above 1e-3."""
EXACT = 1e-9
"""The same where no cosine is involved, as in the gradients of class logits and boxes: below what float32 leaves
(3e-8), above what float64 does, and a guard of 1e-12 in a logarithm."""
SURE = 1e3
WIDTHS = (10, 4, 128)
OUT_OF_RANGE = (10, -1)
"""Not -100, which `torch.nn.CrossEntropyLoss` leaves out as its documented default."""
Masks = tuple[Tensor, Tensor, Tensor]


def drawn(batch: int, seed: int = 0, length: float = 2.0) -> tuple[Outputs, tuple[Tensor, Tensor, Tensor]]:
    """Outputs that require gradients and targets of a batch, float64; embedding targets are about 11 times ``length``
    long."""
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randn(batch, w, generator=generator, dtype=torch.float64) for w in WIDTHS]
    raw[2] = F.normalize(raw[2], dim=1)
    classes = torch.randint(WIDTHS[0], (batch,), generator=generator)
    box, embedding = (torch.randn(batch, w, generator=generator, dtype=torch.float64) for w in WIDTHS[1:])
    return Outputs(*(t.requires_grad_() for t in raw)), (classes, box, length * embedding)


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


def loss(bench: Bench, *arguments: object, **keywords: object) -> Tensor:
    """Call the subject's loss. Raises SubjectError where it raises or gives no scalar."""
    given = [t for argument in arguments for t in argument]  # type: ignore[attr-defined]
    before = [t.detach().clone() for t in given]
    try:
        value = bench.subject.factory(*arguments, **keywords)
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}(outputs, targets{', masks' if len(arguments) > 2 else ''}"
            f"{''.join(f', {k}={v}' for k, v in keywords.items())}) raised {type(error).__name__}: {first_line(error)}"
        ) from error
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    assert shape == (), f"{bench.who}: gave {shape}; expected a scalar tensor, which backward() can start from"
    assert isinstance(value, Tensor)
    names = [f"{what} of {task}" for what in ("the output", "the target", "the mask") for task in TASKS]
    changed = [n for n, t, b in zip(names, given, before, strict=False) if not torch.equal(_plain(t), _plain(b))]
    assert not changed, (
        f"{bench.who}: changes {', '.join(changed)} in place; expected the caller's tensors as they were"
    )
    assert value.dtype is torch.float64, f"{bench.who}: gave {value.dtype} for float64 outputs; expected float64"
    return value


def _plain(tensor: Tensor) -> Tensor:
    """With a number in the place of NaN, which equals nothing."""
    return tensor.detach().nan_to_num(nan=1e9) if tensor.is_floating_point() else tensor


def _gradients(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    if not value.requires_grad:
        return [None for _ in inputs]
    return list(torch.autograd.grad(value, list(inputs), allow_unused=True, retain_graph=True))


def _assert_same(
    bench: Bench, what: str, value: Tensor, expected: Tensor, inputs: Sequence[Tensor], bound: float = ROUNDING
) -> None:
    is_, should = float(value.detach()), float(expected.detach())
    off = abs(is_ - should) / max(1.0, abs(should))
    assert off <= bound, f"{bench.who}: {what}, the loss is {is_:.10g}; expected {should:.10g}"
    pairs = zip(TASKS, _gradients(value, inputs), _gradients(expected, inputs), strict=True)
    for task, got, wanted in pairs:
        assert wanted is not None
        if got is None:
            raise AssertionError(f"{bench.who}: {what}, no gradient reaches the output of {task}; expected one")
        assert got.isfinite().all(), f"{bench.who}: {what}, the gradient of {task} is not finite"
        error = float((got - wanted).norm()) / max(float(wanted.norm()), 1e-6)
        assert error <= (bound if task == "embedding" else EXACT), (
            f"{bench.who}: {what}, the gradient of {task} is off by {error:.1e} (relative)"
        )


def check_loss_value(bench: Bench) -> None:
    """A scalar, and with its gradients the weighted sum (1, 0.5, 0.2) of cross-entropy, mean squared error and one
    minus the cosine similarity, each the mean over the batch, for batches of 1 to 200, boxes far off, and embedding
    targets of any length. NaN in an answer or in a label that is not masked shows. What is passed stays as it is."""
    for batch, length in ((1, 2.0), (2, 0.01), (7, 100.0), (33, 2.0), (200, 2.0)):
        outputs, targets = drawn(batch, seed=batch, length=length)
        expected = combined(by_hand(outputs, targets))
        what = f"for a batch of {batch} and embedding targets of length {float(targets[2].norm(dim=1).mean()):.2g}"
        _assert_same(bench, what, loss(bench, outputs, targets), expected, outputs)
    outputs, (classes, box, embedding) = drawn(5, seed=4)
    far = (classes, SURE * box, embedding)
    expected = combined(by_hand(outputs, far))
    _assert_same(bench, f"for boxes that are off by {SURE:g}", loss(bench, outputs, far), expected, outputs)
    _assert_right_for_sure_answers(bench)
    _assert_dtype_of_outputs(bench)
    _assert_nan_shows(bench)
    expect_quiet_import(bench.subject)
    expect_no_trace(bench.who, lambda: loss(bench, *drawn(2)), "calling it")


def _assert_nan_shows(bench: Bench) -> None:
    """It makes the loss NaN, or is refused: what hides it trains on, on a network that is lost."""
    for number, task in enumerate(TASKS):
        for what in ("the output", "the target")[: 1 if task == "classes" else 2]:
            outputs, targets = drawn(3)
            spoilt = (outputs, targets)[what == "the target"][number].detach()
            spoilt[1] = torch.nan
            try:
                value = bench.subject.factory(outputs, targets)
            except Exception:
                continue
            assert not bool(value.isfinite()), (
                f"{bench.who}: NaN in {what} of {task}, without a mask, gives a loss of {float(value.detach()):.4g}; "
                "expected NaN, or an error"
            )


def _assert_right_for_sure_answers(bench: Bench) -> None:
    """Logits of some thousands, whose exponential float64 can't hold, as float32 can't hold that of 89."""
    outputs, targets = drawn(5, seed=3)
    sure = Outputs(*((SURE * o if task == "classes" else o).detach().requires_grad_() for task, o in _named(outputs)))
    value = loss(bench, sure, targets)
    gradients = [g for g in _gradients(value, sure) if g is not None]
    finite = all(bool(t.isfinite().all()) for t in (value, *gradients))
    assert finite, (
        f"{bench.who}: for class logits up to {float(sure.classes.detach().abs().max()):.0f} the loss is "
        f"{float(value.detach()):.4g}, or a gradient is not finite; expected finite numbers (log_softmax or logsumexp, "
        "not the logarithm of a sum of exponentials)"
    )
    entropy = -F.log_softmax(sure.classes, dim=1).gather(1, targets[0][:, None]).mean()
    expected = combined([entropy, *by_hand(outputs, targets)[1:]])
    off = abs(float((value - expected).detach())) / float(expected.detach())
    assert off <= ROUNDING, (
        f"{bench.who}: for class logits up to {float(sure.classes.detach().abs().max()):.0f} the loss is "
        f"{float(value.detach()):.10g}; expected {float(expected.detach()):.10g}"
    )


def _assert_dtype_of_outputs(bench: Bench) -> None:
    outputs, (classes, box, embedding) = drawn(2)
    single = Outputs(*(o.detach().float().requires_grad_() for o in outputs))
    value = bench.subject.factory(single, (classes, box.float(), embedding.float()))
    assert value.dtype is torch.float32, (
        f"{bench.who}: gave {value.dtype} for float32 outputs and targets; expected float32"
    )


def _named(outputs: Outputs) -> Iterator[tuple[str, Tensor]]:
    return zip(TASKS, outputs, strict=True)


def check_loss_weights(bench: Bench) -> None:
    """``weights`` multiply each task's loss and nothing else; zero switches a task off."""
    outputs, targets = drawn(4)
    for weights in (
        (2.0, 0.5, 0.25),
        (1.0, 30.0, 0.25),
        (1.0, 0.5, 40.0),
        (0.0, 1.0, 1.0),
        (0.25, 0.0, 0.75),
        (20.0, 0.5, 0.0),
    ):
        expected = combined(by_hand(outputs, targets), weights)
        got = loss(bench, outputs, targets, weights=weights)
        _assert_same(bench, f"with weights={weights}", got, expected, outputs, ROUNDING if weights[2] else EXACT)


def _missing(targets: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Targets with what a data set has in place of a missing label: NaN, and -1 for a class."""
    classes, box, embedding = targets
    return (
        classes.masked_fill(~masks[0], -1),
        box.masked_fill(~masks[1][:, None], float("nan")),
        embedding.masked_fill(~masks[2][:, None], float("nan")),
    )


def check_masked_tasks(bench: Bench) -> None:
    """For drawn batches and patterns of missing labels, each task's loss is the mean over the images that have its
    label. What stands in place of a missing one, NaN or another label, reaches neither the loss nor a gradient."""

    @examples(0.3)
    @given(st.integers(1, 5).flatmap(lambda n: st.lists(st.tuples(*[st.booleans()] * 3), min_size=n, max_size=n)))
    def masked(pattern: list[tuple[bool, bool, bool]]) -> None:
        masks = [torch.tensor(column) for column in zip(*pattern, strict=True)]
        if not any(mask.any() for mask in masks):
            return
        outputs, targets = drawn(len(pattern), seed=1)
        expected = combined(by_hand(outputs, targets, masks))
        present = ", ".join(f"{t} {m.int().tolist()}" for t, m in zip(TASKS, masks, strict=True))
        for placeholders, what in ((_missing(targets, masks), "NaN and -1"), (targets, "other labels")):
            got = loss(bench, outputs, placeholders, tuple(masks))
            _assert_same(bench, f"with labels for {present}, and {what} elsewhere", got, expected, outputs)

    describe_failure(bench, masked)


def check_absent_task(bench: Bench) -> None:
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


def check_trunk_gradient(bench: Bench) -> None:
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


def check_bad_labels(bench: Bench) -> None:
    """A class that there is none of, and a batch without any label, raise an error; the same call with labels does
    not."""
    outputs, (classes, box, embedding) = drawn(3)
    loss(bench, outputs, (classes, box, embedding))
    nothing = tuple(torch.zeros(3, dtype=torch.bool) for _ in TASKS)
    second = torch.tensor([False, True, False])
    calls: dict[str, Callable[[], object]] = {
        f"class {wrong} of {WIDTHS[0]}, without a mask,": partial(
            bench.subject.factory, outputs, (classes.masked_fill(second, wrong), box, embedding)
        )
        for wrong in OUT_OF_RANGE
    }
    calls["every task masked for every image"] = partial(
        bench.subject.factory, outputs, (classes, box, embedding), nothing
    )
    for what, call in calls.items():
        try:
            value = call()
        except Exception:
            continue
        except SystemExit:
            value = "an end of the whole program (SystemExit)"
        raise AssertionError(f"{bench.who}: {what} gave {value}; expected an error")
