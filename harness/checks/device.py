"""A network that is moved to another device takes all of itself along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.errors import first_line
from harness.workbench import Workbench

ELSEWHERE = "cuda"
"""Fake tensors know the rules of devices without having one."""
APART = "two devices"
"""In the message of torch, and of its fake tensors, where an operation meets tensors of different devices."""


def check_device(bench: Workbench) -> None:
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
