"""Output and stage shapes over many batch sizes, image sizes, class counts and channel counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.bench.bench import CLASSES, Bench, seeded
from harness.bench.drawn_examples import describe_failure, examples, forward_line, image_sizes
from harness.numerics.shape_trace import ShapeTrace

CLASS_COUNTS = (1, 2, CLASSES, 37, 1000)
CHANNEL_COUNTS = (1, 2, 3, 4, 13)
LARGEST = {"meta": 640, "cpu": 96}
BATCH_IN_TRAINING = 65
"""More images than the checks with values train on."""


def check_shapes(bench: Bench) -> None:
    """On the meta device, over drawn batch, height, width, ``num_classes`` and ``in_channels``: logits are
    (batch, classes) of float32, and every stage's feature map appears with its published width and stride.
    """
    models: dict[tuple[int, int], nn.Module] = {}
    device = "meta"

    def model(classes: int, channels: int) -> nn.Module:
        if (classes, channels) not in models:
            keywords = {bench.channel_keyword: channels} if bench.channel_keyword and channels != 3 else {}
            models[classes, channels] = bench.on_meta(classes, **keywords)
        return models[classes, channels]

    architecture = bench.architecture
    configurations = [(c, 3) for c in CLASS_COUNTS]
    if bench.channel_keyword:
        configurations += [(CLASSES, c) for c in CHANNEL_COUNTS if c != 3]

    # Where the image size is fixed only the batch and the configuration vary, and a fifth of the draws covers them.
    @examples(bench.breadth * (1 if architecture.patch is None else 1 / 4))
    @given(
        image_sizes(architecture, side=architecture.input_size, largest=LARGEST[device], largest_batch=17),
        st.sampled_from(configurations),
    )
    def shapes(size: tuple[int, int, int], configuration: tuple[int, int]) -> None:
        (batch, height, width), (classes, channels) = size, configuration
        subject = model(classes, channels)
        expect_published_shapes(bench, subject, (batch, channels, height, width), classes, "meta")

    try:
        with torch.no_grad():
            model(CLASSES, 3)(torch.empty(2, 3, architecture.input_size, architecture.input_size, device="meta"))
    except Exception as error:  # data-dependent control flow cannot run without values; real values decide then
        bench.notes["meta"] = f"forward does not run on the meta device ({type(error).__name__}); real values decide"
        return
    side = architecture.input_size
    operations = {}
    for key in configurations:  # what a network makes at its first call is no operation of its own
        expect_published_shapes(bench, model(*key), (2, key[1], side, side), key[0], "meta")
    for classes, channels in configurations:  # what fails for the plainest input needs no search
        trace = expect_published_shapes(bench, model(classes, channels), (2, channels, side, side), classes, "meta")
        operations[classes, channels] = trace.operations
    expect_same_operations(bench, models, operations)
    expect_position_embedding(bench)
    expect_stages_in_training(bench, model(CLASSES, 3))
    describe_failure(bench, shapes)


def expect_same_operations(
    bench: Bench,
    models: Mapping[tuple[int, int], nn.Module],
    operations: Mapping[tuple[int, int], Mapping[str, int]],
) -> None:
    """Raise AssertionError where class or channel counts change more than widths.

    The operations stay the same, and the parameters grow in proportion.
    """
    for index, (what, other, keyword) in enumerate(((CLASS_COUNTS, 3, "num_classes"), (CHANNEL_COUNTS, CLASSES, ""))):
        keys = {n: (n, other) if index == 0 else (other, n) for n in what}
        keys = {n: key for n, key in keys.items() if key in models}
        if len(keys) < 3:
            continue
        keyword = keyword or f"{bench.channel_keyword}"
        sizes = {n: sum(p.numel() for p in models[key].parameters()) for n, key in keys.items()}
        usual = 3 if index else 1000
        low, high = sorted(keys)[-2:]
        slope = (sizes[high] - sizes[low]) / (high - low)
        for n, size in sizes.items():
            expected = sizes[high] - slope * (high - n)
            assert size == expected, (
                f"{bench.who}: with {keyword}={n} it has {size:,} parameters; expected {expected:,.0f}, "
                f"{slope:,.0f} for each, as with {keyword}={high} and {low}"
            )
            here, there = operations[keys[n]], operations[keys[usual]]
            differ = sorted(f"{o} {here.get(o, 0)}x" for o in {*here, *there} if here.get(o, 0) != there.get(o, 0))
            assert not differ, (
                f"{bench.who}: with {keyword}={n} it runs {', '.join(differ[:5])}; with {keyword}={usual} "
                f"{', '.join(f'{there.get(d.split()[0], 0)}x' for d in differ[:5])}: expected the same operations"
            )


def expect_position_embedding(bench: Bench) -> None:
    """Raise AssertionError where, built for another image size, there isn't one position for each patch."""
    patch, keyword = bench.architecture.patch, bench.size_keyword
    if patch is None or keyword is None:
        return
    base = bench.architecture.input_size
    sides = (base, base - patch, base + patch, 2 * base)
    counts = [sum(p.numel() for p in bench.on_meta(CLASSES, **{keyword: side}).parameters()) for side in sides]
    patches = [(side // patch) ** 2 for side in sides]
    width = (counts[0] - counts[1]) / (patches[0] - patches[1])
    for side, count, number in zip(sides, counts, patches, strict=True):
        expected = counts[0] + width * (number - patches[0])
        assert count == expected, (
            f"{bench.who}: with {keyword}={side} it has {count:,} parameters; expected {expected:,.0f}: a position "
            f"embedding of width {width:,.0f} for each of the {number} patches"
        )


def expect_stages_in_training(bench: Bench, model: nn.Module) -> None:
    """Raise AssertionError where a stage has another shape in train mode, at the published size and beyond."""
    side = bench.architecture.input_size
    sides = (side,) if bench.architecture.patch is not None else (side, 2 * side + 1)
    model.train()
    try:
        with torch.no_grad(), seeded(bench.seed):
            try:
                model(torch.empty(2, 3, side, side, device="meta"))
            except Exception as error:  # draws whose values decide, or an operator without a meta kernel
                bench.notes["meta_training"] = f"not followed in train mode ({type(error).__name__})"
                return
            for size in sides:
                expect_published_shapes(bench, model, (BATCH_IN_TRAINING, 3, size, size), CLASSES, "meta")
    finally:
        model.eval()


def check_shapes_on_values(bench: Bench) -> None:
    """The same on the CPU with real values and small sizes: shape, dtype and finiteness."""
    models: dict[int, nn.Module] = {}
    side = bench.small_side()

    @examples(1 / 10, least=10, shrink=False)
    @given(
        image_sizes(bench.architecture, side=side, largest=LARGEST["cpu"], largest_batch=5),
        st.sampled_from((2, CLASSES)),
    )
    def shapes(size: tuple[int, int, int], classes: int) -> None:
        if classes not in models:
            models[classes] = (bench.small_copy() if classes == CLASSES else bench.small(classes)).eval()
        batch, height, width = size
        expect_published_shapes(bench, models[classes], (batch, 3, height, width), classes, "cpu")

    describe_failure(bench, shapes)


def expect_published_shapes(
    bench: Bench, model: nn.Module, shape: tuple[int, int, int, int], classes: int, device: str
) -> ShapeTrace:
    """Raise AssertionError where logits, or a stage's feature map, have another shape or dtype, or are not finite.

    ``shape`` is (batch, channels, height, width). Returns every shape and operation of the pass.
    """
    keywords = f"num_classes={classes}"
    if shape[1] != 3:
        keywords += f", {bench.channel_keyword}={shape[1]}"
    line = f"\nreproduce: {forward_line(bench, shape, keywords=keywords, device=device, train=model.training)}"
    images = torch.empty(shape, device="meta") if device == "meta" else bench.images(*shape[:1], *shape[2:]).float()
    with torch.no_grad(), ShapeTrace() as shapes:
        try:
            logits = bench.logits(model, images, classes)
        except AssertionError as error:
            raise AssertionError(f"{error}{line}") from error
    asked = f"{bench.who}: {'in train mode, ' if model.training else ''}for images {shape} and num_classes={classes}"
    assert tuple(logits.shape) == (shape[0], classes), (
        f"{asked} the logits have shape {tuple(logits.shape)}; expected {(shape[0], classes)}{line}"
    )
    assert logits.dtype is torch.float32, f"{asked} the logits are {logits.dtype}; expected torch.float32{line}"
    if device != "meta":
        assert bool(torch.isfinite(logits).all()), f"{asked} the logits are not finite{line}"
    for number, stage in enumerate(bench.architecture.stages, start=1):
        height, width = (-(-side // stage.stride) for side in shape[2:])
        nchw, nhwc = (shape[0], stage.width, height, width), (shape[0], height, width, stage.width)
        flat = {(shape[0], stage.width, height * width), (shape[0], height * width, stage.width)}
        assert shapes.seen & {nchw, nhwc, *flat}, (
            f"{asked} no feature map of stage {number} has the published shape {nchw} "
            f"(width {stage.width}, stride {stage.stride}); of that width there are "
            f"{sorted(s for s in shapes.seen if len(s) == 4 and stage.width in s)[:4]}{line}"
        )
    return shapes
