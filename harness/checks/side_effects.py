"""What a subject does to what is around it: settings, generators, imports, devices, its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench.bench import CLASSES, Bench, seeded
from harness.bench.passes import restored
from harness.bench.tolerances import relative
from harness.bench.weight_transplant import transplant
from harness.errors import first_line, some_of
from harness.numerics.float64_mode import Float64Mode
from harness.process.global_state import changes, draw, generators, restore, settings
from harness.subjects.import_guard import import_changes

if TYPE_CHECKING:
    from harness.subjects.subject import Subject


def expect_seeds_to_hold(who: str, numbers: Sequence[Mapping[str, float]], what: str) -> None:
    """Raise AssertionError where ``numbers``, from `draw` after different seeds and after ``what``, agree."""
    first, second = numbers
    for name in first:
        assert first[name] != second[name], (
            f"{who}: {what} seeds {name}'s generator: after different seeds it stands at the same place; "
            "expected the caller's seed to hold"
        )


def expect_settings(who: str, before: Mapping[str, Any], what: str) -> None:
    """Raise AssertionError where ``what`` has changed a setting since ``before``."""
    for _, text in changes(before):
        raise AssertionError(f"{who}: {what} changes a process-wide setting: {text}")


def expect_no_trace(who: str, call: Callable[[], object], what: str) -> None:
    """Raise AssertionError where ``call`` seeds a generator or changes a setting, which is then put back."""
    before, drawn = settings(), []
    try:
        for start in (1, 2):
            with generators(start):
                call()
                drawn.append(draw())
            expect_settings(who, before, what)
    finally:
        restore(before)
    expect_seeds_to_hold(who, drawn, what)


def expect_quiet_import(subject: Subject) -> None:
    """Raise AssertionError where importing the subject's file has changed what other models compute."""
    subject.module()
    found = import_changes.get(subject.spec)
    assert not found, (
        f"{subject.who}: importing {subject.spec} changes the whole process: {'; '.join(found or ())}; "
        "expected other models to compute what they did before (keep such changes inside the model)"
    )


@dataclass(frozen=True)
class Fresh:
    """Two instances built from different seeds, and a number from each generator right after each was built."""

    models: tuple[nn.Module, nn.Module]
    drawn: tuple[Mapping[str, float], Mapping[str, float]]


def fresh(bench: Bench) -> Fresh:
    """Built once for all checks of freshly built models; building is where global state is watched first."""

    def make() -> Fresh:
        before, models, drawn = settings(), [], []
        try:
            for start in (1, 2):
                with generators(bench.seed + start):
                    models.append(bench.build(CLASSES, seeding=False, **bench.size))
                    drawn.append(draw())
                expect_settings(bench.who, before, "building it")
        finally:
            restore(before)
        return Fresh((models[0], models[1]), (drawn[0], drawn[1]))

    built: Fresh = bench.shared("fresh", make)
    return built


def check_global_state(bench: Bench) -> None:
    """Building and calling changes no process-wide setting, and seeds no generator (torch's, Python's, NumPy's)."""
    expect_quiet_import(bench.subject)
    built = fresh(bench)
    expect_seeds_to_hold(bench.who, built.drawn, "building it")
    model, before = built.models[0], settings()
    images = bench.images(4, bench.small_side(), seed=46).float()
    drawn = []
    with restored(model):
        try:
            for start in (1, 2):
                with generators(bench.seed + start):
                    bench.logits(model.eval(), images)  # under no_grad a change of the gradient mode would be undone
                    expect_settings(bench.who, before, "a forward pass in eval mode")
                    bench.backward(bench.logits(model.train(), images).sum())
                    expect_settings(bench.who, before, "a training step")
                    drawn.append(draw())
        finally:
            restore(before)
    expect_seeds_to_hold(bench.who, drawn, "its forward pass")


def check_input_untouched(bench: Bench) -> None:
    """The input tensor is not modified, in eval and in train mode, with and without gradients; nor are gradients."""
    expect_gradients_kept(bench)
    made = transplant(bench)
    for train, gradients in product((False, True), repeat=2):
        images = bench.images(4, made.side, seed=26)
        kept = images.clone()
        with restored(made.subject), torch.set_grad_enabled(gradients), Float64Mode(), seeded(bench.seed):
            bench.logits(made.subject.train(train), images)
        assert torch.equal(images, kept), (
            f"{bench.who}: the forward pass in {'train' if train else 'eval'} mode changes its input tensor by "
            f"{relative(images, kept):.1e} (an in-place operation on the input)"
        )


def expect_gradients_kept(bench: Bench) -> None:
    """Raise AssertionError where a forward pass changes gradients that earlier passes have accumulated."""
    model = bench.small_copy().train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    bench.logits(model, bench.images(2, bench.small_side(), seed=35).float())
    gone = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad == 1).all())]
    assert not gone, (
        f"{bench.who}: a forward pass in train mode changes or clears the gradients of {some_of(gone)}; expected "
        "them to stay: micro-batches add up"
    )


ELSEWHERE = "cuda"
"""Fake tensors know the rules of devices without having one."""
APART = "two devices"
"""In the message of torch, and of its fake tensors, where an operation meets tensors of different devices."""


def check_device(bench: Bench) -> None:
    """Built on the CPU and moved by ``.to("cuda")``, it runs on images that are there, in train and in eval mode.

    No GPU is needed: the tensors are fake, with a device, a shape and a dtype, but no values. What depends on values
    can't be followed so, and is left to the GPU; what meets a tensor of another device is a fault everywhere.
    """
    for train in (True, False):
        model, images = bench.small_copy().train(train), bench.images(2, bench.small_side(), seed=47).float()
        mode: TorchDispatchMode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            with mode:
                with _Lowered() as here:
                    bench.logits(model, images)
                model.to(ELSEWHERE)
                with _Lowered() as there:
                    logits = bench.logits(model, images.to(ELSEWHERE))
        except Exception as error:
            cause = error.__cause__ or error
            if APART not in f"{error} {cause}":
                bench.notes["device"] = f"not followed: {type(cause).__name__}"
                return
            raise AssertionError(
                f"{bench.who}: moved from the CPU by .to({ELSEWHERE!r}), in {'train' if train else 'eval'} mode it "
                f"meets tensors of two devices ({first_line(cause)}); expected everything on the images' device: a "
                "tensor that is neither parameter nor buffer stays behind, or one is made on the CPU"
            ) from error
        assert logits.device.type == ELSEWHERE, (
            f"{bench.who}: moved by .to({ELSEWHERE!r}) it returns logits on {logits.device}; expected them on "
            f"{torch.device(ELSEWHERE)}, where the images are"
        )
        lowered = {n: t for n, t in there.operations.items() if n not in here.operations}
        assert not lowered, (
            f"{bench.who}: moved by .to({ELSEWHERE!r}), in {'train' if train else 'eval'} mode it computes "
            f"{', '.join(f'{n} in {t}' for n, t in sorted(lowered.items())[:3])}, which on the CPU it does not; "
            "expected float32 on every device where float32 is asked for"
        )


class _Lowered(TorchDispatchMode):
    """Operations that give numbers of half precision, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: dict[str, str] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note what an operation gives; pass it on."""
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) and out else out
        if isinstance(first, Tensor) and first.dtype in (torch.float16, torch.bfloat16):
            self.operations[func.overloadpacket.__name__] = str(first.dtype).removeprefix("torch.")
        return out
