"""Numerical parity with the references, in float64 with the same non-degenerate weights."""

from __future__ import annotations

from hypothesis import given
from torch import Tensor

from harness.checks.comparison import bound_there, compare, sensitivity_of
from harness.checks.localise import locate
from harness.reproduce import describe_failure
from harness.strategies import examples, image_sizes
from harness.transplant import Transplant, other_channels, rowwise, run, transplant
from harness.workbench import Workbench

EXAMPLES = 7
"""Image sizes drawn for the forward comparison (five times as many under the nightly profile)."""


def check_parity_eval(bench: Workbench) -> None:
    """Logits, and the gradients of the input and of every parameter, equal each reference's in eval mode."""
    made = transplant(bench)
    images = bench.images(3, made.side, seed=2)
    got = run(bench, made.subject, images, train=False)
    sensitivity = None
    for grafted in made.grafted:
        expected = run(bench, grafted.model, images, train=False)
        if sensitivity is None:
            sensitivity = sensitivity_of(bench, grafted, images, expected, train=False)
            bench.share("sensitivity", sensitivity)
        compare(bench, made, grafted, images, got, expected, sensitivity, train=False)


def check_parity_sizes(bench: Workbench) -> None:
    """Logits equal the references' for drawn batch sizes, heights and widths."""
    made = transplant(bench)

    @examples(1 / 12, least=EXAMPLES, shrink=False)
    @given(image_sizes(bench.architecture, side=made.side, largest=90, largest_batch=4))
    def sizes(shape: tuple[int, int, int]) -> None:
        _same_logits(bench, made, bench.images(*shape, seed=4))

    describe_failure(bench, sizes)
    # What no drawn example has: a large batch, loud and faint images, another number of channels and of classes.
    small = made.side if bench.architecture.patch else bench.architecture.minimum_size
    _same_logits(bench, made, bench.images(65 if bench.architecture.patch is None else 33, small, seed=60))
    loud = bench.images(3, small, seed=61)
    for images in (100 * loud[:1], loud[1:2] / 100, loud[2:].abs() + 300):
        _same_logits(bench, made, images)
    if bench.architecture.patch is None:  # larger than published, and as wide or tall as a panorama
        least = bench.architecture.minimum_size
        for height, width in ((239, 233), (least, 6 * least + 5), (6 * least + 5, least)):
            _same_logits(bench, made, bench.images(1, height, width, seed=64))
    channelled = other_channels(bench, 4)
    if channelled is not None:
        _same_logits(bench, channelled, bench.images(2, channelled.side, seed=62, channels=4))


def _same_logits(bench: Workbench, made: Transplant, images: Tensor) -> None:
    got = run(bench, made.subject, images, train=False, gradients=False, classes=made.classes)
    grafted = made.grafted[0]  # that the references agree with one another is settled by check_parity_eval
    expected = run(bench, grafted.model, images, train=False, gradients=False, classes=made.classes)
    error = rowwise(got.logits, expected.logits)
    bound = bound_there(bench, made, grafted, images, expected, error)
    bench.notes.update(error=max(error, bench.notes.get("error", 0.0)), bound=bound)
    if error > bound:
        raise AssertionError(
            f"{bench.who} differs from {grafted.title} on images {tuple(images.shape)} in eval mode: logits "
            f"are off by {error:.1e}, expected at most {bound:.1e} (relative, float64)"
            + locate(bench, made.subject, grafted, images, bound, train=False)
        )
