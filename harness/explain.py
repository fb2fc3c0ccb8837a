"""``python -m harness.explain my_models.py:resnet50``: the aligned layers side by side, and the first that differs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.bench.bench import Bench
from harness.bench.weight_transplant import Transplant, Transplanted, transplant
from harness.errors import RequestError, SubjectError
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode
from harness.subjects.loading import families, given_subjects
from harness.subjects.subject import Subject
from reference.alignment.locate.first_difference import Deviation, first_deviation
from reference.alignment.match.align import AlignedLayer, Alignment, AlignmentError

BOUND = 1e-10
"""Relative difference above which a layer differs: float64 rounds at 1e-16, and the deepest of the networks amplify
that to about 1e-13."""

USUAL: Mapping[str, tuple[Any, ...]] = {
    "kernel": ((1, 1),), "stride": ((1, 1),), "padding": ((0, 0),), "dilation": ((1, 1),),
    "groups": (1,), "mask": ("none",),
}  # fmt: skip
"""Hyper-parameters that the table leaves out where both sides have these values."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where nothing differs, 1 where something does, 4 where the request made no sense."""
    parser = argparse.ArgumentParser(prog="python -m harness.explain", description=__doc__)
    parser.add_argument("subject", help="FILE.py:ARCHITECTURE or importable.module:ARCHITECTURE")
    parser.add_argument("--against", metavar="LIBRARY", help="the reference library (default: the suite's first)")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        bench = Bench(find_subject(given.subject))
        return explain(bench, given.against, console)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 4
    except SubjectError as error:
        cause = error.__cause__
        if isinstance(cause, AlignmentError) and cause.alignment is not None:
            console.print(layer_table(cause.alignment, bench.label, "reference"))
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1


def find_subject(spec: str) -> Subject:
    """The subject called ``module:architecture``. Raises RequestError."""
    module, colon, name = spec.rpartition(":")
    known = families()
    if not colon or not module:
        raise RequestError(f"{spec}: give FILE.py:ARCHITECTURE, for instance my_models.py:resnet50")
    for family in known:
        if family.find(name) is not None:
            found = given_subjects(module, family, [name])
            if not found:
                raise RequestError(f"{module} has no callable named {name}")
            return next((s for s in found if s.factory_name == name), found[0])
    names = "; ".join(f"{f.name}: {', '.join(a.name for a in f.architectures)}" for f in known)
    raise RequestError(f"{name}: no such architecture; known: {names}")


def explain(bench: Bench, against: str | None, console: Console) -> int:
    """Print the table of aligned layers and the first deviation from one reference."""
    made = transplant(bench)
    grafted = next((g for g in made.grafted if against in (None, g.reference.library)), None)
    if grafted is None:
        libraries = ", ".join(g.reference.library for g in made.grafted)
        raise RequestError(f"--against {against}: no reference of {bench.architecture.name}; known: {libraries}")
    deviation, mode = deviation_of(bench, made, grafted)
    marked = deviation.reference.removeprefix("after ") if deviation else ""
    console.print(layer_table(grafted.alignment, bench.label, grafted.title, marked))
    if deviation is None:
        console.print(f"{bench.who} and {grafted.title} agree in every layer, in eval and in train mode.")
        return 0
    console.print(f"[red]{escape(describe(deviation, mode))}[/red]")
    return 1


def deviation_of(bench: Bench, made: Transplant, grafted: Transplanted) -> tuple[Deviation | None, str]:
    """The first deviation and the mode that it shows in: eval before train."""
    images = bench.images(4, made.side, seed=2)
    for mode in ("eval", "train"):
        # Every random layer is taken out, on both sides: its rate is a question for the checks.
        with Float64Mode(), ControlledRng(0.0, batch=len(images), elements="identity"):
            found = first_deviation(
                made.subject, grafted.model, grafted.alignment, images, bound=BOUND, train=mode == "train"
            )  # fmt: skip
        if found is not None:
            return found, mode
    return None, ""


def describe(deviation: Deviation, mode: str) -> str:
    """The deviation in two lines."""
    line = (
        f"First layer that differs ({mode} mode): {deviation.subject}, {deviation.reference} in the reference, "
        f"stage {deviation.stage}: relative error {deviation.error:.1e} there, {deviation.error_before:.1e} before it."
    )
    return f"{line}\nLikely cause: {deviation.cause}." if deviation.cause else line


def layer_table(alignment: Alignment, subject: str, reference: str, marked: str = "") -> Table:
    """The aligned layers side by side; what differs in the hyper-parameters is red, the row called ``marked`` too."""
    table = Table(title=f"{escape(subject)} and {escape(reference)}", title_justify="left")
    for heading in ("kind", escape(subject), escape(reference), "shape", "hyper-parameters"):
        table.add_column(heading, overflow="fold")
    for layer in alignment.layers:
        table.add_row(*_cells(layer), style="red" if marked and layer.reference == marked else None)
    return table


def _cells(layer: AlignedLayer) -> list[str]:
    shape = " x ".join(map(str, layer.subject_shape or layer.reference_shape))
    missing = "[red]none[/red]"
    return [layer.kind, escape(layer.subject) or missing, escape(layer.reference) or missing, shape, _hyper(layer)]


def _hyper(layer: AlignedLayer) -> str:
    """What is equal once; what differs in red, the subject's value first. The values that are usual are left out."""
    parts = []
    for key in dict.fromkeys((*layer.subject_hyper, *layer.reference_hyper)):
        own, other = layer.subject_hyper.get(key), layer.reference_hyper.get(key)
        both = layer.subject and layer.reference
        if own == other or not both:
            value = own if own is not None else other
            if value is not None and value not in USUAL.get(key, ()):
                parts.append(escape(f"{key} {value}"))
        elif key == "activation" or (own is not None and other is not None):
            parts.append(f"[bold red]{escape(f'{key} {own or None} / {other or None}')}[/bold red]")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
