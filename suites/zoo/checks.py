"""What any network promises, judged with nothing published: on the smallest images that it takes, in float64.

Where the promise can fail for the smallness of the images alone (attention over one token has no gradient for its
queries), the model's own size decides.
"""

from __future__ import annotations

import torch
from torch import nn

from harness.bench.bench import CLASSES, Bench
from harness.bench.drawn_examples import forward_line
from harness.bench.passes import run_pass
from harness.checks import compilation, independence, saving, side_effects
from suites.zoo.bench import ListedBench, listed_bench

BATCHES = (1, 2, 5)
CLASS_COUNTS = (1, 37)
CHANNELS = 4


def check_shapes(bench: Bench) -> None:
    """On the meta device, at the model's own size: logits are (batch, classes) of float32 for several batches, class
    counts and, where the factory takes them, channels."""
    made, side = listed_bench(bench), bench.architecture.input_size
    with torch.no_grad():
        try:
            made.on_meta(CLASSES)(torch.empty(2, 3, side, side, device="meta"))
        except Exception as error:  # what looks at values can't run without them; real values decide then
            bench.notes["meta"] = (
                f"forward does not run on the meta device ({type(error).__name__}); real values decide"
            )
            return
    asked = [(n, CLASSES, 3) for n in BATCHES] + [(2, classes, 3) for classes in CLASS_COUNTS]
    if made.channel_keyword:
        asked.append((2, CLASSES, CHANNELS))
    models: dict[tuple[int, int], nn.Module] = {}
    for batch, classes, channels in asked:
        keywords = {made.channel_keyword: channels} if made.channel_keyword and channels != 3 else {}
        if (classes, channels) not in models:
            models[classes, channels] = made.on_meta(classes, **keywords)
        images = torch.empty(batch, channels, side, side, device="meta")
        _check_one(made, models[classes, channels], images, classes, keywords)


def check_shapes_on_values(bench: Bench) -> None:
    """On the CPU, with real values of float32 as the model is built: shape, dtype and finiteness in both modes."""
    made = listed_bench(bench)
    model = made.small_copy()
    for batch in (2, 3):
        for training in (False, True):
            images = made.images(batch, made.small_side(), seed=batch).float()
            _check_one(made, model.train(training), images, CLASSES, made.size)


def _check_one(
    bench: ListedBench, model: nn.Module, images: torch.Tensor, classes: int, keywords: dict[str, int]
) -> None:
    shape, device = tuple(images.shape), images.device.type
    given = ", ".join(f"{k}={v}" for k, v in {"num_classes": classes, **keywords}.items())
    line = f"\nreproduce: {forward_line(bench, shape, keywords=given, device=device)}"
    with torch.no_grad():
        try:
            logits = bench.logits(model, images, classes)
        except AssertionError as error:
            raise AssertionError(f"{error}{line}") from error
    asked = f"{bench.who}: in {'train' if model.training else 'eval'} mode for images {shape} and num_classes={classes}"
    assert tuple(logits.shape) == (shape[0], classes), (
        f"{asked} the logits have shape {tuple(logits.shape)}; expected {(shape[0], classes)}{line}"
    )
    assert logits.dtype is torch.float32, f"{asked} the logits are {logits.dtype}; expected torch.float32{line}"
    if device != "meta":
        assert bool(torch.isfinite(logits).all()), f"{asked} the logits are not finite{line}"


def check_gradients(bench: Bench) -> None:
    """Every parameter that may learn gets a finite gradient that is not zero everywhere, in eval mode.

    Decided on small images where it holds there, and on the model's own size where it does not.
    """
    made = listed_bench(bench)
    fault = _gradient_fault(made)
    if fault and made.small_side() < bench.architecture.input_size:
        bench.notes["small"] = f"at {made.small_side()} pixels: {fault}"
        fault = _gradient_fault(listed_bench(bench, full=True))
    assert not fault, f"{bench.who}: {fault}"


def _gradient_fault(bench: ListedBench) -> str:
    model = bench.alive()
    outcome = run_pass(bench, model, bench.images(2, bench.small_side(), seed=6), train=False)
    learning = {n: outcome.gradients[n] for n, p in model.named_parameters() if p.requires_grad}
    missing = [n for n, g in learning.items() if g is None]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return (
            f"no gradient reaches {', '.join(missing[:8])}{more}; expected one for every parameter (unused, detached, "
            "or under no_grad)"
        )
    for name, gradient in learning.items():
        assert gradient is not None
        if not bool(torch.isfinite(gradient).all()):
            return f"the gradient of {name} is not finite"
        if not bool(gradient.any()):
            return f"the gradient of {name} is zero everywhere; expected it to matter"
    if outcome.input_gradient is None or not bool((outcome.input_gradient.flatten(1).norm(dim=1) > 0).all()):
        return "no gradient reaches the input of some sample of the batch"
    return ""


def check_batch_independence(bench: Bench) -> None:
    """See `harness.checks.independence.check_batch_independence`."""
    independence.check_batch_independence(listed_bench(bench).prepared())


def check_determinism(bench: Bench) -> None:
    """See `harness.checks.independence.check_determinism`."""
    independence.check_determinism(listed_bench(bench).prepared())


def check_input_untouched(bench: Bench) -> None:
    """See `harness.checks.side_effects.check_input_untouched`."""
    side_effects.check_input_untouched(listed_bench(bench).prepared())


def check_state_dict_round_trip(bench: Bench) -> None:
    """See `harness.checks.saving.check_state_dict_round_trip`."""
    saving.check_state_dict_round_trip(listed_bench(bench).prepared())


def check_export(bench: Bench) -> None:
    """See `harness.checks.compilation.check_export`."""
    compilation.check_export(listed_bench(bench).prepared())
