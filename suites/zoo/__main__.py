"""``python -m suites.zoo``: the smallest models of a library, as ``--arch`` takes them."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings

import torch

from reference.libraries.model_lists import listed


def parameters(module: str, name: str) -> int | None:
    """Number of parameters of a model, built without storage; None where it can't be built so."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: torch.nn.Module = getattr(importlib.import_module(module), name)(num_classes=1000)
    except Exception:  # a schedule that is computed with `.item()`, most often
        return None
    return sum(p.numel() for p in model.parameters())


def main() -> int:
    """Print names, comma-separated, smallest first."""
    parser = argparse.ArgumentParser(prog="python -m suites.zoo", description=__doc__)
    parser.add_argument("--subject", default="timm.models", metavar="MODULE", help="the library (default timm.models)")
    parser.add_argument("--smallest", type=int, default=150, metavar="N", help="how many (default 150)")
    given = parser.parse_args()
    names = [name for name, _ in listed(given.subject)]
    if not names:
        print(
            f"error: --subject {given.subject}: keeps no list; known: timm.models, torchvision.models", file=sys.stderr
        )
        return 4
    counts = {}
    for number, name in enumerate(names, start=1):
        counts[name] = parameters(given.subject, name)
        if sys.stderr.isatty():
            print(f"\r{number}/{len(names)} built", end="", file=sys.stderr, flush=True)
    known = sorted((count, name) for name, count in counts.items() if count is not None)
    print(",".join(name for _, name in known[: given.smallest]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
