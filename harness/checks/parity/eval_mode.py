"""Logits in eval mode, in float64: small images, other sizes, photographs."""

from __future__ import annotations

import torch
from hypothesis import given
from torch import Tensor

from harness.bench.bench import Bench
from harness.bench.drawn_examples import describe_failure, examples, image_sizes
from harness.bench.passes import run_pass
from harness.bench.sample_images import photographs
from harness.bench.tolerances import CEILING, rowwise
from harness.bench.weight_transplant import Transplant, other_channels, transplant
from harness.checks.parity.compare import (
    bound_there,
    compare,
    compare_buffers,
    compare_logits,
    eval_images,
    eval_sensitivity,
    locate,
    regularisation,
    with_rates,
)

EXAMPLES = 7
"""Image sizes drawn for the forward comparison (five times as many under the nightly profile)."""
MOST_HELD = 2**28
"""Bytes of float64 weights up to which networks of both sizes are held at once; beyond them one after the other."""


def check_parity_eval(bench: Bench) -> None:
    """Logits, and the gradients of the input and of every parameter, equal each reference's in eval mode."""
    made = transplant(bench)
    images = eval_images(bench, made)
    got = None
    for grafted in made.grafted:
        expected = run_pass(bench, grafted.model, images, train=False)
        sensitivity = eval_sensitivity(bench, made, expected)
        got = got or run_pass(bench, made.subject, images, train=False)
        compare(bench, made, grafted, images, got, expected, sensitivity, train=False)
        del expected  # its gradients take as much memory as the network


def check_parity_sizes(bench: Bench) -> None:
    """Logits equal the references' for drawn batch sizes, heights and widths."""
    made = transplant(bench)

    @examples(1 / 12, least=EXAMPLES, shrink=False)
    @given(image_sizes(bench.architecture, side=made.side, largest=90, largest_batch=4))
    def sizes(shape: tuple[int, int, int]) -> None:
        expect_reference_logits(bench, made, bench.images(*shape, seed=4))

    describe_failure(bench, sizes)
    # What no drawn example has: a large batch, loud and faint images, another number of channels and of classes.
    small = made.side if bench.architecture.patch else bench.architecture.minimum_size
    expect_reference_logits(bench, made, bench.images(65 if bench.architecture.patch is None else 33, small, seed=60))
    loud = bench.images(3, small, seed=61)
    for images in (100 * loud[:1], loud[1:2] / 100, loud[2:].abs() + 300):
        expect_reference_logits(bench, made, images)
    if bench.architecture.patch is None:  # larger than published, and as wide or tall as a panorama
        least = bench.architecture.minimum_size
        for height, width in ((239, 233), (least, 6 * least + 5), (6 * least + 5, least)):
            expect_reference_logits(bench, made, bench.images(1, height, width, seed=64))
    channelled = other_channels(bench, 4)
    if channelled is not None:
        expect_reference_logits(bench, channelled, bench.images(2, channelled.side, seed=62, channels=4))


def expect_reference_logits(bench: Bench, made: Transplant, images: Tensor) -> tuple[Tensor, Tensor]:
    """Raise AssertionError where the logits in eval mode aren't the first reference's. Returns both."""
    got = run_pass(bench, made.subject, images, train=False, gradients=False, classes=made.classes)
    grafted = made.grafted[0]  # that the references agree with one another is settled by check_parity_eval
    expected = run_pass(bench, grafted.model, images, train=False, gradients=False, classes=made.classes)
    error = rowwise(got.logits, expected.logits)
    bound = bound_there(bench, made, grafted, images, expected, error)
    bench.notes.update(error=max(error, bench.notes.get("error", 0.0)), bound=bound)
    if error > bound:
        raise AssertionError(
            f"{bench.who} differs from {grafted.title} on images {tuple(images.shape)} in eval mode: logits "
            f"are off by {error:.1e}, expected at most {bound:.1e} (relative, float64)"
            + locate(bench, made.subject, grafted, images, bound, train=False)
        )
    return got.logits, expected.logits


def check_parity_photographs(bench: Bench) -> None:
    """Logits of real photographs equal the references', in float64 at the published image size.

    Without scikit-learn's sample photographs the images are random, and the notes say so.
    """
    side = bench.architecture.input_size
    images = photographs(side)
    if images is None:
        bench.notes["images"] = (
            "random: scikit-learn's sample photographs are not installed (the extra `test` has them)"
        )
        images = bench.images(2, side, seed=3)
    if bench.architecture.parameters * torch.float64.itemsize > MOST_HELD:
        bench.drop("transplant")  # the next check makes it again
    made = transplant(bench, full_size=True)
    bench.drop("transplant-full")  # no later check needs it
    got, expected = expect_reference_logits(bench, made, images)
    expect_published_training(bench, made, images[:1])
    assert got.topk(5).indices.tolist() == expected.topk(5).indices.tolist(), (
        f"{bench.who}: the five best classes of a photograph are not those of {made.grafted[0].title}"
    )


def expect_published_training(bench: Bench, made: Transplant, image: Tensor) -> None:
    """Raise AssertionError where a training pass at the published size and class count isn't the reference's.

    Logits, gradients and running statistics are compared.

    Gradients are compared on a small image where a network is the same at every size, which one with patches isn't.
    """
    elements, rates = regularisation(bench)
    reference = with_rates(bench, made, made.grafted[0], rates)
    least = bench.architecture.minimum_size
    batches = [(image, True)]
    if bench.architecture.patch is None:
        batches = [(image, False), (bench.images(2, least + 43, least + 21, seed=64), True)]
    for images, backward in batches:
        got, expected = (
            run_pass(bench, model, images, train=True, elements=elements, classes=made.classes, backward=backward)
            for model in (made.subject, reference.model)
        )
        (compare if backward else compare_logits)(
            bench, made, reference, images, got, expected, (CEILING, CEILING), train=True
        )
        compare_buffers(bench, reference, got, expected, (CEILING, CEILING))
