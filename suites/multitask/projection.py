"""What PCGrad promises, against its algorithm written out for every order in which tasks may meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import torch
from torch import Tensor, nn

from harness.subjects import SubjectError, first_line
from harness.workbench import Workbench, seeded

ROUNDING = 1e-7
"""Relative. Projections in float64 round to 1e-13; an implementation may regularise a division by 1e-8 or so."""


class Problem:
    """Three tasks on two shared tensors. ``agreement`` turns the tasks' gradients from conflict to accord."""

    def __init__(self, agreement: float, tasks: int = 3) -> None:
        generator = torch.Generator().manual_seed(5)

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
        return [(features @ head * weight).sum() for head, weight in zip(self.heads, self.importance, strict=True)]

    def gradients(self) -> list[Tensor]:
        """Each task's gradient on all shared elements together."""
        return [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, self.shared, retain_graph=True)])
            for loss in self.losses()
        ]


def projected(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
    """The sum of projected gradients for every choice of orders: algorithm 1 of Yu et al. 2020."""
    numbers = range(len(gradients))
    orders = [list(permutations([j for j in numbers if j != i])) for i in numbers]
    for choice in product(*orders):
        total = torch.zeros_like(gradients[0])
        for number, order in zip(numbers, choice, strict=True):
            own = gradients[number].clone()
            for other in order:
                product_ = own @ gradients[other]
                if product_ < 0:
                    own -= product_ / (gradients[other] @ gradients[other]) * gradients[other]
            total += own
        yield total


def _run(bench: Workbench, problem: Problem) -> None:
    try:
        with seeded(bench.seed):
            bench.subject.factory(problem.losses(), list(problem.shared), [[head] for head in problem.heads])
    except Exception as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}(losses, shared, heads) raised {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def check_projected_gradients(bench: Workbench) -> None:
    """``grad`` of the shared parameters is the sum of the tasks' gradients, each projected off those that it conflicts
    with; the plain sum where none conflict. Conflict is judged on all shared parameters together."""
    conflicts = 0
    for agreement, tasks in ((0.0, 2), (0.0, 3), (5.0, 3), (-1.0, 4)):
        problem = Problem(agreement, tasks)
        gradients = problem.gradients()
        opposed = sum(float(a @ b) < 0 for a in gradients for b in gradients) // 2
        conflicts += opposed
        _run(bench, problem)
        missing = [n for n, p in enumerate(problem.shared) if p.grad is None]
        assert not missing, f"{bench.who}: sets no gradient on shared parameter {missing[0]}; expected it in `grad`"
        got = torch.cat([p.grad.reshape(-1) for p in problem.shared if p.grad is not None])
        errors = [float((got - e).norm() / e.norm()) for e in projected(gradients)]
        plain = torch.stack(gradients).sum(0)
        unprojected = opposed and float((got - plain).norm() / plain.norm()) < ROUNDING
        assert min(errors) < ROUNDING, (
            f"{bench.who}: for {tasks} tasks with {opposed} conflicting pairs, the shared gradient is off by "
            f"{min(errors):.1e} (relative) from PCGrad's for any order of tasks"
            + ("; it is the plain sum" if unprojected else "; expected the sum of the projected gradients")
        )
    assert conflicts, "none of the problems has a conflict"


def check_head_gradients(bench: Workbench) -> None:
    """A head's ``grad`` is its own task's gradient, not projected and not mixed."""
    problem = Problem(0.0)
    expected = [torch.autograd.grad(t, h)[0] for t, h in zip(problem.losses(), problem.heads, strict=True)]
    _run(bench, problem)
    for number, (head, wanted) in enumerate(zip(problem.heads, expected, strict=True)):
        assert head.grad is not None, f"{bench.who}: sets no gradient on the head of task {number}"
        error = float((head.grad - wanted).norm() / wanted.norm())
        assert error < ROUNDING, (
            f"{bench.who}: the gradient of the head of task {number} is off by {error:.1e} from its own task's gradient"
        )
