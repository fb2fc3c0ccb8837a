"""What PCGrad promises, against its algorithm written out for every order in which tasks may meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.checks.side_effects import expect_quiet_import, expect_seeds_to_hold
from harness.errors import SubjectError, first_line
from harness.process.global_state import draw, generators

ROUNDING = 1e-9
"""Relative. Projections in float64 round to 1e-13, in float32 to 3e-8; `LOUDNESS` makes squared norms of 1e6 and more,
of which a division regularised by 1e-8 changes nothing."""
LOUDNESS = 1e3
PROBLEMS = ((4, 2, 0.0), (10, 3, 0.0), (6, 3, 0.0), (4, 3, 0.0), (1, 4, 0.0), (5, 5, 0.3), (11, 5, 0.6), (0, 3, 5.0))
"""Seed, tasks and agreement: strong conflicts and weak ones (a cosine of -0.01), between two tasks and several, so that
projecting the original gradients, not those already projected, is off by a hundredth; in the last there is none."""
LENGTH, ANGLE = 0.1, 1e-7
"""A product of -1e-9 and a cosine of -1e-7 are conflicts too: without a projection the sum is off by the cosine, with a
division that is regularised by 1e-6 it is off by a ten-thousandth of that."""


class Problem:
    """Tasks on two shared tensors. Their gradients are as random with an ``agreement`` of zero, and much alike with 5.

    The loss of task number ``silent`` has no gradient.
    """

    def __init__(self, seed: int = 5, tasks: int = 3, agreement: float = 0.0, silent: int | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.silent = silent

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.shared = [nn.Parameter(normal(4, 5)), nn.Parameter(normal(5))]
        common = normal(5)
        self.heads = [nn.Parameter(agreement * common + normal(5)) for _ in range(tasks)]
        self.images = normal(6, 4)
        self.importance = [agreement + normal(6) for _ in range(tasks)]
        self.biases = [nn.Parameter(normal(1)) for _ in range(tasks)]
        """Of each image to each task: so that tasks may agree on one tensor and conflict on the other."""

    def losses(self) -> list[Tensor]:
        """One scalar per task, connected to the shared tensors and to its own head."""
        features = torch.tanh(self.images @ self.shared[0] + self.shared[1])
        return [
            (0.0 if number == self.silent else LOUDNESS) * ((features @ head + bias) * weight).sum()
            for number, (head, bias, weight) in enumerate(zip(self.heads, self.biases, self.importance, strict=True))
        ]

    def gradients(self) -> list[Tensor]:
        """Each task's gradient on all shared elements together."""
        return [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, self.shared, retain_graph=True)])
            for loss in self.losses()
        ]


class Faint(Problem):
    """Two tasks whose gradients, of length `LENGTH`, stand at a cosine of -`ANGLE`."""

    def losses(self) -> list[Tensor]:
        """Linear in the shared tensors and in the heads."""
        flat = torch.cat([p.reshape(-1) for p in self.shared])
        generator = torch.Generator().manual_seed(1)
        first, other = torch.linalg.qr(torch.randn(len(flat), 2, generator=generator, dtype=flat.dtype))[0].T
        directions = (LENGTH * first, LENGTH * (other - ANGLE * first))
        return [
            flat @ direction + head.sum() + bias.sum()
            for direction, head, bias in zip(directions, self.heads, self.biases, strict=True)
        ]


def projected(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
    """The sum of projected gradients for every choice of orders: algorithm 1 of Yu et al. 2020."""
    for choice in product(*(_ways(gradients, number) for number in range(len(gradients)))):
        yield torch.stack(choice).sum(0)


def _ways(gradients: Sequence[Tensor], number: int) -> list[Tensor]:
    """What the gradient of one task may become, without repeats: most orders come to the same."""
    found: list[Tensor] = []
    for order in permutations([n for n in range(len(gradients)) if n != number]):
        own = gradients[number].clone()
        for other in order:
            product_ = own @ gradients[other]
            if product_ < 0:
                own -= product_ / (gradients[other] @ gradients[other]) * gradients[other]
        if all(float((own - known).norm()) > 1e-12 * float(gradients[number].norm()) for known in found):
            found.append(own)
    return found


def _arguments(problem: Problem) -> tuple[list[Tensor], list[nn.Parameter], list[list[nn.Parameter]]]:
    heads = [[head, bias] for head, bias in zip(problem.heads, problem.biases, strict=True)]
    return problem.losses(), list(problem.shared), heads


def _lists(given: tuple[list[Tensor], list[nn.Parameter], list[list[nn.Parameter]]]) -> list[list[int]]:
    """Which tensors each of the lists holds."""
    losses, shared, heads = given
    lists: list[Sequence[Tensor]] = [losses, shared, *heads]
    return [[id(t) for t in one] for one in lists]


def _run(bench: Bench, problem: Problem) -> None:
    """Call the subject, which is to write ``grad`` and to leave all else that it is given as it was."""
    given = _arguments(problem)
    lists = _lists(given)
    parameters = [*problem.shared, *problem.heads, *problem.biases]
    values = [p.detach().clone() for p in parameters]
    try:
        with seeded(bench.seed):
            bench.subject.factory(*given)
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}(losses, shared, heads) raised {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    assert _lists(given) == lists, (
        f"{bench.who}: changes the lists that it is given; expected the caller's as they were"
    )
    kept = all(p.requires_grad and torch.equal(p, v) for p, v in zip(parameters, values, strict=True))
    assert kept, f"{bench.who}: changes parameters, or freezes them; expected it to write their `grad` alone"


def check_projected_gradients(bench: Bench) -> None:
    """``grad`` of the shared parameters is the sum of the tasks' gradients, each projected off those that it conflicts
    with; the plain sum where none conflict. Conflict is judged on all shared parameters together, and is any product
    below zero. Gradients that are there before are added to, or overwritten, all alike."""
    for seed, tasks, agreement in PROBLEMS:
        _judge(bench, Problem(seed, tasks, agreement))
    _judge(bench, Problem(3, 3, 0.0, silent=1))
    _judge(bench, Faint(8, 2), f"2 tasks whose gradients have a product of -{LENGTH**2 * ANGLE:.0e}")
    for start in (0.0, LOUDNESS):
        _expect_one_treatment(bench, start)
    _expect_no_seeding(bench)


def _expect_one_treatment(bench: Bench, start: float) -> None:
    """Two tasks, whose order makes no difference, with gradients of ``start`` in ``grad``."""
    problem, fresh = Problem(4, 2), Problem(4, 2)
    _run(bench, fresh)
    for parameter in (*problem.shared, *problem.heads, *problem.biases):
        parameter.grad = torch.full_like(parameter, start)
    _run(bench, problem)
    got, new = ([p.grad for p in (*one.shared, *one.heads, *one.biases)] for one in (problem, fresh))
    treated = [_treatments(g, n, start) for g, n in zip(got, new, strict=True)]
    assert set.intersection(*treated), (
        f"{bench.who}: where `grad` holds {start:g} everywhere before, it is neither added to for every parameter nor "
        "overwritten for every one; expected all to be treated alike"
    )


def _treatments(got: Tensor | None, new: Tensor | None, start: float) -> set[str]:
    if got is None or new is None:
        return set()
    size = ROUNDING * (float(new.norm()) + start)
    wanted = {"added to": new + start, "overwritten": new}
    return {name for name, expected in wanted.items() if float((got - expected).norm()) <= size}


def _judge(bench: Bench, problem: Problem, which: str = "") -> None:
    gradients = problem.gradients()
    opposed = sum(float(a @ b) < 0 for a in gradients for b in gradients) // 2
    _run(bench, problem)
    missing = [n for n, p in enumerate(problem.shared) if p.grad is None]
    assert not missing, f"{bench.who}: sets no gradient on shared parameter {missing[0]}; expected it in `grad`"
    got = torch.cat([p.grad.reshape(-1) for p in problem.shared if p.grad is not None])
    which = which or f"{len(gradients)} tasks, {opposed} pair{'' if opposed == 1 else 's'} of them in conflict"
    if problem.silent is not None:
        which += f" and task {problem.silent} with a gradient of zero"
        assert bool(got.isfinite().all()), f"{bench.who}: for {which}, the shared gradient is not finite"
    error = min(float((got - e).norm() / e.norm()) for e in projected(gradients))
    plain = torch.stack(gradients).sum(0)
    unprojected = opposed and float((got - plain).norm() / plain.norm()) < ROUNDING
    assert error < ROUNDING, (
        f"{bench.who}: for {which}, the shared gradient is off by {error:.1e} (relative) from PCGrad's for any order "
        "of tasks" + ("; it is the plain sum" if unprojected else "; expected the sum of the projected gradients")
    )


def _expect_no_seeding(bench: Bench) -> None:
    """An order may be drawn, from the caller's generator as it stands; importing it leaves other models alone."""
    drawn = []
    for seed in (1, 2):
        with generators(seed):
            bench.subject.factory(*_arguments(Problem()))
            drawn.append(draw())
    expect_seeds_to_hold(bench.who, drawn, "combining losses")
    expect_quiet_import(bench.subject)


def check_head_gradients(bench: Bench) -> None:
    """A head's ``grad`` is its own task's gradient, not projected and not mixed."""
    problem = Problem()
    own = list(zip(problem.heads, problem.biases, strict=True))
    expected = [torch.autograd.grad(loss, parts) for loss, parts in zip(problem.losses(), own, strict=True)]
    _run(bench, problem)
    for number, (parts, gradients) in enumerate(zip(own, expected, strict=True)):
        for what, part, wanted in zip(("weight", "bias"), parts, gradients, strict=True):
            where = f"the {what} of the head of task {number}"
            assert part.grad is not None, f"{bench.who}: sets no gradient on {where}"
            error = float((part.grad - wanted).norm() / wanted.norm())
            assert error < ROUNDING, (
                f"{bench.who}: the gradient of {where} is off by {error:.1e} from its own task's gradient"
            )
