"""What the multi-task network promises: one trunk, three linear heads, a unit-length embedding."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.bench.drawn_examples import describe_failure, examples
from harness.errors import SubjectError, first_line
from harness.numerics.fast_conv import FastConv
from harness.subjects.outputs import logits_of
from suites.multitask.model import TASKS

WIDTHS = {"classes": 10, "box": 4, "embedding": 128}
ROUNDING = 1e-9
"""Relative, in float64: rounding through 50 layers stays below 1e-11, what is wrong in a layer shows above 1e-4."""
GUARD = 1e-6
"""A guard against division by zero, 1e-8 is usual, moves a normalised vector by as much over its length."""
FACTOR = -2.0
FAINT = 1e-3
"""Of the embedding's weights: far above any guard, and below what an epsilon of a hundredth leaves alone."""
CONTRACT = "expected a tuple, dict or dataclass with tensors of shape (batch, 10), (batch, 4) and (batch, 128)"


def takes_classes(bench: Bench) -> bool:
    """Whether the factory has an argument, which is then ``num_classes``."""
    return bool(inspect.signature(bench.subject.factory).parameters)


def network(bench: Bench, num_classes: int = WIDTHS["classes"], *, seeding: bool = True) -> nn.Module:
    """A new network, seeded unless ``seeding`` is False; ``num_classes`` is given where the factory takes it."""
    given = {"num_classes": num_classes} if takes_classes(bench) else {}
    try:
        with seeded(bench.seed) if seeding else nullcontext():
            model = bench.subject.factory(**given)
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}() raised {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise SubjectError(f"{bench.who}: gave {type(model).__name__}; expected a torch.nn.Module")
    return model


def outputs(bench: Bench, model: nn.Module, images: Tensor, widths: Mapping[str, int] = WIDTHS) -> dict[str, Tensor]:
    """The three tasks' outputs, told apart by their width. Raises SubjectError where one is not there."""
    before = images.detach().clone()
    try:
        answer = model(images)
        found = {task: logits_of(answer, width) for task, width in widths.items()}
    except TypeError as error:
        raise SubjectError(f"{bench.who}: {first_line(error)}; {CONTRACT}") from error
    except Exception as error:
        raise SubjectError(
            f"{bench.who}: forward on images {tuple(images.shape)} raised {type(error).__name__}: {first_line(error)}"
        ) from error
    assert images.is_meta or torch.allclose(images, before, rtol=0.0, atol=0.0, equal_nan=True), (
        f"{bench.who}: the forward pass changes its input tensor (an in-place operation on the images)"
    )
    for task, tensor in found.items():
        expected = (len(images), widths[task])
        assert tuple(tensor.shape) == expected, (
            f"{bench.who}: {task} of images {tuple(images.shape)} has shape {tuple(tensor.shape)}; expected {expected}"
        )
        assert tensor.dtype == images.dtype, f"{bench.who}: {task} is {tensor.dtype}; expected {images.dtype}"
    return found


def live(bench: Bench) -> nn.Module:
    """One network in float64 and eval mode with non-degenerate values, which the checks share and leave as it is."""

    def make() -> nn.Module:
        return enlivened(network(bench).double().eval(), bench.seed)

    model: nn.Module = bench.shared("live", make)
    return model


@torch.no_grad()
def enlivened(model: nn.Module, seed: int) -> nn.Module:
    """``model`` with values that all matter: no norm is the identity, and no head starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_floating_point():
            continue
        if tensor.ndim < 2:  # norms, biases and statistics
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
        elif not bool(tensor.any()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) / tensor[0].numel() ** 0.5)
    return model


def images(bench: Bench) -> Tensor:
    """Three float64 images of 64 px."""
    return bench.images(3, 64)


def check_task_parameters(bench: Bench) -> None:
    """The trunk's parameters once, and one linear layer with bias for each task; all of them train."""
    with torch.device("meta"):
        model = network(bench)
    count, expected = sum(p.numel() for p in model.parameters()), bench.architecture.parameters
    assert count == expected, (
        f"{bench.who}: has {count:,} parameters; expected {expected:,} ({bench.architecture.source}), so "
        f"{abs(count - expected):,} {'too many' if count > expected else 'missing'}"
    )
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert not frozen, f"{bench.who}: starts with parameters that do not train: {', '.join(frozen[:3])}"


def check_task_shapes(bench: Bench) -> None:
    """(batch, 10), (batch, 4) and (batch, 128) for drawn batches and image sizes, on the meta device."""
    with torch.device("meta"):
        model = network(bench).eval()

    @examples(0.1)
    @given(st.integers(1, 9), st.integers(33, 300), st.integers(33, 300))
    def shapes(batch: int, height: int, width: int) -> None:
        with torch.no_grad():
            outputs(bench, model, torch.empty(batch, 3, height, width, device="meta"))

    describe_failure(bench, shapes)
    with torch.no_grad():
        outputs(bench, live(bench), bench.images(2, 65, 48))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A parameter, or rows or columns of one that heads share as one layer, and the tasks that it learns from."""

    name: str
    tasks: tuple[str, ...]
    size: int
    axis: int = 0
    index: Tensor | None = None
    """Places along ``axis``; None for all."""

    def of(self, model: nn.Module) -> Tensor:
        """Its values in ``model``."""
        parameter = model.get_parameter(self.name).detach()
        return parameter if self.index is None else parameter.index_select(self.axis, self.index)

    def write(self, model: nn.Module, values: Tensor) -> None:
        """Put ``values`` in its place."""
        parameter = model.get_parameter(self.name).detach()
        if self.index is None:
            parameter.copy_(values)
        else:
            parameter.index_copy_(self.axis, self.index, values)


def pieces(bench: Bench) -> list[Piece]:
    """All parameters, by the tasks whose output has a gradient, other than zero, with respect to them."""

    def make() -> list[Piece]:
        model = live(bench)
        named = dict(model.named_parameters())
        reached = {n: torch.zeros(len(TASKS), *p.shape, dtype=torch.bool) for n, p in named.items()}
        answer = outputs(bench, model, images(bench))
        for task, tensor in answer.items():
            direction = torch.linspace(-1.0, 1.3, tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
            if not tensor.requires_grad:
                raise SubjectError(f"{bench.who}: {task} carries no gradient")
            trained = {n: p for n, p in named.items() if p.requires_grad}
            gradients = torch.autograd.grad(
                tensor, list(trained.values()), direction, retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    reached[name][TASKS.index(task)] = gradient != 0
        return [piece for name, elements in reached.items() for piece in _pieces(name, named[name], elements)]

    with FastConv():
        known: list[Piece] = bench.shared("pieces", make)
    return known


def _pieces(name: str, parameter: Tensor, reached: Tensor) -> Iterator[Piece]:
    """``reached`` (tasks, shape of the parameter): the places of each task along the axis that tells them apart, or
    the whole where none does."""
    tasks = tuple(t for t, elements in zip(TASKS, reached, strict=True) if elements.any())
    for axis in range(parameter.ndim) if len(tasks) > 1 else ():
        along = reached.movedim(axis + 1, 1).reshape(len(TASKS), parameter.shape[axis], -1).any(2)
        if bool((along.sum(0) == 1).all()):
            for task, places in zip(TASKS, along, strict=True):
                held = places.nonzero()[:, 0]
                if len(held):
                    size = parameter.numel() // parameter.shape[axis] * len(held)
                    yield Piece(name=name, tasks=(task,), size=size, axis=axis, index=held)
            return
    yield Piece(name=name, tasks=tasks, size=parameter.numel())


def check_task_gradients(bench: Bench) -> None:
    """Every parameter learns from all tasks (the trunk) or from one (its head), and each kind has its known size."""
    found = pieces(bench)
    facts: Mapping[str, Any] = bench.architecture.facts
    dead = [p.name for p in found if not p.tasks]
    assert not dead, f"{bench.who}: no task's gradient reaches {_some(dead)}"
    partly = [p for p in found if 1 < len(p.tasks) < len(TASKS)]
    assert not partly, (
        f"{bench.who}: {_some([p.name for p in partly])} learns from {' and '.join(partly[0].tasks)} only; "
        "expected a parameter to belong to one head or to the trunk that all tasks share"
    )
    sizes = {task: sum(p.size for p in found if p.tasks == (task,)) for task in TASKS}
    for task, size in sizes.items():
        expected = facts["heads"][task]
        assert size == expected, (
            f"{bench.who}: {size:,} parameters learn from {task} alone; expected the {expected:,} of its head, "
            + ("so the trunk does not learn from every task" if size > expected else "so heads share parameters")
        )
    shared = sum(p.size for p in found if len(p.tasks) == len(TASKS))
    assert shared == facts["shared"], (
        f"{bench.who}: {shared:,} parameters learn from every task; expected the trunk's {facts['shared']:,}"
    )


def check_linear_heads(bench: Bench) -> None:
    """A head's weights times -2: its own output is -2 times what it was (the embedding, being normalised, -1 times),
    and the others stay as they were. So nothing stands behind a head, and no head reads another's output. In train mode
    a second pass gives the same: nothing is dropped on the way."""
    model, found = live(bench), pieces(bench)
    with torch.no_grad(), FastConv():
        before = outputs(bench, model, images(bench))
        for task in TASKS:
            own = [p for p in found if p.tasks == (task,)]
            assert own, f"{bench.who}: {task} has no parameters of its own; expected a linear head"
            kept = [p.of(model).clone() for p in own]
            try:
                for piece, value in zip(own, kept, strict=True):
                    piece.write(model, FACTOR * value)
                after = outputs(bench, model, images(bench))
            finally:
                for piece, value in zip(own, kept, strict=True):
                    piece.write(model, value)
            factor = -1.0 if task == "embedding" else FACTOR
            error = relative(after[task], factor * before[task])
            assert error < (GUARD if task == "embedding" else ROUNDING), (
                f"{bench.who}: with the weights of its head times {FACTOR:g}, {task} differs by {error:.1e} from "
                f"{factor:g} times what it was; expected a linear head with nothing behind it"
                + (" but the normalisation" if task == "embedding" else "")
            )
            for other in TASKS:
                assert other == task or relative(after[other], before[other]) < ROUNDING, (
                    f"{bench.who}: {other} changes with the weights of the {task} head; expected heads that do not meet"
                )
        trained = copy.deepcopy(model).train()
        first, second = (outputs(bench, trained, images(bench)) for _ in range(2))
        for task in TASKS:
            error = relative(second[task], first[task])
            assert error < GUARD, (
                f"{bench.who}: in train mode a second pass changes {task} by {error:.1e}; expected nothing random"
            )


def check_embedding_norm(bench: Bench) -> None:
    """Every embedding has length one: alone and in a batch, for loud and faint images; what is zero stays finite."""
    model, own = live(bench), [p for p in pieces(bench) if p.tasks == ("embedding",)]
    with torch.no_grad():
        for batch, gain in ((1, 1.0), (3, 1.0), (3, 30.0), (2, 0.03)):
            lengths = outputs(bench, model, gain * bench.images(batch, 64))["embedding"].norm(dim=1)
            worst = float((lengths - 1).abs().max())
            assert worst < GUARD, (
                f"{bench.who}: embeddings of a batch of {batch} have lengths {_numbers(lengths)}; expected 1 each"
            )
        _assert_faint(bench, own)
        dead = network(bench).double().eval()
        for parameter in dead.parameters():
            parameter.zero_()
        embedding = outputs(bench, dead, bench.images(2, 64))["embedding"]
        assert bool(embedding.isfinite().all()), (
            f"{bench.who}: where the embedding's layer gives zeros, dividing by their length gives "
            f"{float(embedding.flatten()[0])}; expected finite numbers, as torch.nn.functional.normalize gives"
        )


def _assert_faint(bench: Bench, own: list[Piece]) -> None:
    """A head whose weights are a thousandth gives embeddings of length one, to a guard of 1e-8 over that length."""
    model = live(bench)
    kept = [p.of(model).clone() for p in own]
    try:
        for piece, value in zip(own, kept, strict=True):
            piece.write(model, FAINT * value)
        lengths = outputs(bench, model, images(bench))["embedding"].norm(dim=1)
    finally:
        for piece, value in zip(own, kept, strict=True):
            piece.write(model, value)
    worst = float((lengths - 1).abs().max())
    assert worst < GUARD / FAINT, (
        f"{bench.who}: with the weights of its head at {FAINT:g} of what they are, embeddings have lengths "
        f"{_numbers(lengths)}; expected 1 each: the guard against division by zero acts on what is far from zero"
    )


def relative(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((got - expected).detach().norm() / expected.detach().norm())


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{v:.4g}" for v in values.tolist())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
