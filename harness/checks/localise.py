"""From "the logits differ" to "this layer differs"."""

from __future__ import annotations

from torch import Tensor, nn

from harness.errors import first_line
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode
from harness.transplant import Grafted
from harness.workbench import Workbench
from reference.localise import first_deviation


def locate(bench: Workbench, subject: nn.Module, grafted: Grafted, images: Tensor, bound: float, *, train: bool) -> str:
    """A clause that names the first aligned layer that differs; the aligned layers go to the notes."""
    bench.notes["layers"] = [vars(layer) for layer in grafted.alignment.layers]
    try:
        with Float64Mode(), ControlledRng(batch=len(images)):
            found = first_deviation(subject, grafted.model, grafted.alignment, images, bound=bound, train=train)
    except Exception as error:  # a clause that can't be had must not hide the verdict
        return f"; the layer could not be found ({type(error).__name__}: {first_line(error)})"
    if found is None:
        return "; every aligned layer agrees, so the deviation lies after the last one"
    bench.notes["deviation"] = dict(vars(found))
    cause = f"; likely cause: {found.cause}" if found.cause else ""
    return (
        f"; first layer that differs: {found.subject} (there {found.reference}, stage {found.stage}), "
        f"{found.error:.1e} there, {found.error_before:.1e} just before{cause}"
    )
