"""What PCGrad promises, against its algorithm written out for every order in which tasks may meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import torch
from torch import Tensor, nn

from harness.global_state import draw, expect_seeds_to_hold, generators
from harness.subjects import SubjectError, first_line
from harness.workbench import Workbench, seeded

ROUNDING = 1e-9
"""Relative. Projections in float64 round to 1e-13, in float32 to 3e-8; `LOUDNESS` makes squared norms of 1e6 and more,
of which a division regularised by 1e-8 changes nothing."""
LOUDNESS = 1e3
PROBLEMS = ((4, 2, 0.0), (10, 3, 0.0), (6, 3, 0.0), (4, 3, 0.0), (1, 4, 0.0), (5, 5, 0.3), (11, 5, 0.6), (0, 3, 5.0))
"""Seed, tasks and agreement: strong conflicts and weak ones (a cosine of -0.01), between two tasks and several, so that
projecting the original gradients, not those already projected, is off by a hundredth; in the last there is none."""


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
        """Of each image to each task: so that tasks may agree on one tensor and conflict on the other."""

    def losses(self) -> list[Tensor]:
        """One scalar per task, connected to the shared tensors and to its own head."""
        features = torch.tanh(self.images @ self.shared[0] + self.shared[1])
        return [
            (0.0 if number == self.silent else LOUDNESS) * (features @ head * weight).sum()
            for number, (head, weight) in enumerate(zip(self.heads, self.importance, strict=True))
        ]

    def gradients(self) -> list[Tensor]:
        """Each task's gradient on all shared elements together."""
        return [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, self.shared, retain_graph=True)])
            for loss in self.losses()
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
    return problem.losses(), list(problem.shared), [[head] for head in problem.heads]


def _run(bench: Workbench, problem: Problem) -> None:
    try:
        with seeded(bench.seed):
            bench.subject.factory(*_arguments(problem))
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}(losses, shared, heads) raised {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def check_projected_gradients(bench: Workbench) -> None:
    """``grad`` of the shared parameters is the sum of the tasks' gradients, each projected off those that it conflicts
    with; the plain sum where none conflict. Conflict is judged on all shared parameters together."""
    for seed, tasks, agreement in PROBLEMS:
        _judge(bench, Problem(seed, tasks, agreement))
    _judge(bench, Problem(3, 3, 0.0, silent=1))
    _expect_no_seeding(bench)


def _judge(bench: Workbench, problem: Problem) -> None:
    gradients = problem.gradients()
    opposed = sum(float(a @ b) < 0 for a in gradients for b in gradients) // 2
    _run(bench, problem)
    missing = [n for n, p in enumerate(problem.shared) if p.grad is None]
    assert not missing, f"{bench.who}: sets no gradient on shared parameter {missing[0]}; expected it in `grad`"
    got = torch.cat([p.grad.reshape(-1) for p in problem.shared if p.grad is not None])
    which = f"{len(gradients)} tasks, {opposed} pair{'' if opposed == 1 else 's'} of them in conflict"
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


def _expect_no_seeding(bench: Workbench) -> None:
    """An order may be drawn, from the caller's generator as it stands."""
    drawn = []
    for seed in (1, 2):
        with generators(seed):
            bench.subject.factory(*_arguments(Problem()))
            drawn.append(draw())
    expect_seeds_to_hold(bench.who, drawn, "combining losses")


def check_head_gradients(bench: Workbench) -> None:
    """A head's ``grad`` is its own task's gradient, not projected and not mixed."""
    problem = Problem()
    expected = [torch.autograd.grad(t, h)[0] for t, h in zip(problem.losses(), problem.heads, strict=True)]
    _run(bench, problem)
    for number, (head, wanted) in enumerate(zip(problem.heads, expected, strict=True)):
        assert head.grad is not None, f"{bench.who}: sets no gradient on the head of task {number}"
        error = float((head.grad - wanted).norm() / wanted.norm())
        assert error < ROUNDING, (
            f"{bench.who}: the gradient of the head of task {number} is off by {error:.1e} from its own task's gradient"
        )
