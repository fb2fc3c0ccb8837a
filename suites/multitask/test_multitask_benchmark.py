"""What a multi-task step costs, against a step of one task on the same trunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.plugin.run import Run

STEP = 1.05
"""With fixed weights, at most, of a single-task step's time."""
SIZES = {"cpu": (4, 96), "cuda": (32, 224)}


@pytest.mark.speed
def test_steps_of_tasks(session: Run, benchmark: Any, request: pytest.FixtureRequest) -> None:
    """ResNet-50 with one head, with three and fixed weights, and with PCGrad, in turns. The bound is missed where the
    whole 95 % interval lies above it."""
    import torch
    from torch.nn.functional import cross_entropy

    from harness.bench.bench import seeded
    from harness.measure.rounds import BudgetError
    from harness.measure.training_steps import TimedStep, compare
    from harness.measure.workload import random_batch
    from suites.multitask.model import multitask_loss, multitask_resnet50, pcgrad, task_losses
    from suites.resnet.model import resnet50

    device = session.request.device
    size, side = SIZES[device.split(":")[0]]
    images = random_batch(size, side, device).images
    classes = torch.arange(size, device=device) % 10
    targets = (classes, torch.randn(size, 4, device=device), torch.randn(size, 128, device=device))
    with seeded(0):
        fixed, conflicting = (multitask_resnet50().to(device) for _ in range(2))
        one_task = resnet50(num_classes=10).to(device)
    losses = {
        "fixed weights": lambda model: multitask_loss(model(images), targets),
        "one task": lambda model: cross_entropy(model(images), classes),
    }

    def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    steps: dict[str, Any] = {"fixed weights": TimedStep(fixed, sgd(fixed), losses["fixed weights"])}
    optimizer = sgd(conflicting.train())

    def project() -> None:
        optimizer.zero_grad(set_to_none=True)
        heads = [list(m.parameters()) for m in (conflicting.classes, conflicting.box, conflicting.embedding)]
        pcgrad(list(task_losses(conflicting(images), targets)), conflicting.backbone.parameters(), heads)
        optimizer.step()

    steps["PCGrad"] = project
    steps["one task"] = TimedStep(one_task, sgd(one_task), losses["one task"])
    try:
        found = compare(
            benchmark,
            steps,
            suite="multitask",
            architecture="resnet50",
            run=session.id,
            device=device,
            budget=session.request.budget,
            batch_size=size,
            input_size=side,
            record=session.record,
            test=request.node.nodeid,
        )
    except BudgetError as error:
        pytest.skip(f"not measured: {error}")
    step = found.cost("fixed weights", "one task")
    benchmark.extra_info.update(step=step.ratio, projected=found.cost("PCGrad", "one task").ratio)
    assert step.low <= STEP, f"a step of three tasks takes {step.ratio:.3f} ({step.low:.3f} to {step.high:.3f}) of one"
