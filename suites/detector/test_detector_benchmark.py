"""Speed and memory of the detector against torchvision's Faster R-CNN over the same backbone, in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.plugin.run import Run
    from harness.records.schema import Mode

SIZES = {"cpu": (1, 256), "cuda": (4, 800)}
"""Images in a batch, and their side."""


@pytest.mark.speed
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_speed_of_detectors(session: Run, benchmark: Any, request: pytest.FixtureRequest, mode: Mode) -> None:
    """Not slower, and at most 2 % more memory; a bound is missed where the whole 95 % interval lies beyond it."""
    import torch
    from torch import nn

    from harness.bench.bench import seeded
    from harness.measure.rounds import BudgetError
    from harness.measure.training_steps import TimedStep, compare
    from reference.libraries.torchvision_detector import assembled, state_as_assembled
    from suites.detector.model.faster_rcnn import detector_resnet50

    device = session.request.device
    size, side = SIZES[device.split(":")[0]]
    with seeded(0):
        settings: dict[str, Any] = {"min_size": side, "max_size": side}
        models: dict[str, nn.Module] = {
            "ours": detector_resnet50(91, **settings).to(device),
            "torchvision": assembled("detector_resnet50", 91, **settings).to(device),
        }
        models["torchvision"].load_state_dict(state_as_assembled(models["ours"].state_dict()))  # as many proposals
        images = [torch.rand(3, side, side, device=device) for _ in range(size)]
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9]], device=device) * side
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2], device=device)}] * size

    def inference(model: nn.Module) -> Callable[[], None]:
        model.eval()

        def step() -> None:
            with torch.inference_mode():
                model(images)

        return step

    def training(model: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-8, momentum=0.9)
        return TimedStep(model, optimizer, lambda m: torch.stack(list(m(images, targets).values())).sum())

    steps = {name: (inference if mode == "infer" else training)(model) for name, model in models.items()}
    try:
        found = compare(
            benchmark,
            steps,
            suite="detector",
            architecture="detector_resnet50",
            run=session.id,
            device=device,
            budget=session.request.budget,
            batch_size=size,
            input_size=side,
            record=session.record,
            test=request.node.nodeid,
            mode=mode,
        )
    except BudgetError as error:
        pytest.skip(f"not measured: {error}")
    cost, memory = found.cost("ours", "torchvision"), found.memory_ratio("ours", "torchvision")
    benchmark.extra_info.update(cost=cost.ratio, memory=memory)
    assert cost.low <= 1.0, f"{mode}: takes {cost.ratio:.3f} ({cost.low:.3f} to {cost.high:.3f}) of torchvision's time"
    assert memory is None or memory <= 1.02, f"{mode}: takes {memory:.3f} of torchvision's peak memory"
