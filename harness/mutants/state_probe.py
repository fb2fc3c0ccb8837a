"""Shows that a variant differs in what it keeps between calls, saves, loads, or changes around itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.mutants.probe import Evidence, Networks, Pair, difference, forward


def second_call(pair: Pair) -> float:
    """Of the logits of a second, different input after a first one."""
    correct, faulty = pair.filled()
    other = pair.images().flip(0, 2) * 1.5
    forward(faulty, pair.images())
    return difference(forward(faulty, other), forward(correct, other))


def repeated_call(pair: Pair) -> float:
    """Between two calls of the faulty network on the same input."""
    _, faulty = pair.filled()
    first = forward(faulty, pair.images())
    return difference(forward(faulty, pair.images()), first)


def input_change(pair: Pair) -> float:
    """Of the input tensor itself over one call in each mode."""
    _, faulty = pair.filled()
    images = pair.images()
    for train in (False, True):
        forward(faulty.train(train), images)
    return difference(images, pair.images())


def reloaded(pair: Pair) -> float:
    """Evidence: the difference between the faulty network and a second one that loaded its state dict."""
    _, faulty = pair.filled()
    torch.manual_seed(1)
    again = pair.faulty(10).double().eval()
    again.load_state_dict(faulty.state_dict())
    return difference(forward(again, pair.images()), forward(faulty, pair.images()))


def changes(read: Callable[[], Any], *, calling: bool = False) -> Evidence:
    """Evidence: one where what ``read`` gives is another after building (or calling) the faulty network."""

    def measure(pair: Pair) -> float:
        model = pair.faulty(10) if calling else None
        before = read()
        if model is None:
            pair.faulty(10)
        else:
            model(pair.images().float())
        return float(read() != before)

    return measure


def reseeds(seed: Callable[[int], Any], draw: Callable[[], float], *, calling: bool = False) -> Evidence:
    """Evidence: one where two seeds give the same number after building (or calling) the faulty network."""

    def measure(pair: Pair) -> float:
        model, drawn = pair.faulty(10), []
        for start in (11, 12):
            seed(start)
            if calling:
                model(pair.images().float())
            else:
                pair.faulty(10)
            drawn.append(draw())
        return float(drawn[0] == drawn[1])

    return measure


def accepts(state: Callable[[Any], Any], networks: Networks = Pair.filled) -> Evidence:
    """Evidence: one where the faulty network alone loads a state that is made from its own."""

    def measure(pair: Pair) -> float:
        accepted = []
        for model in networks(pair):
            try:
                model.load_state_dict(state(model.state_dict()))
                accepted.append(True)
            except RuntimeError:
                accepted.append(False)
        return float(accepted == [False, True])

    return measure


def clears(step: Callable[[Any, Pair], object], networks: Networks = Pair.filled) -> Evidence:
    """Evidence: one where a training step of the faulty network alone takes away the gradients that were there."""

    def measure(pair: Pair) -> float:
        left = []
        for model in networks(pair):
            parameter = next(p for p in model.parameters() if p.requires_grad)
            parameter.grad = torch.ones_like(parameter)
            step(model.train(), pair)
            left.append(parameter.grad is not None)
        return float(left == [True, False])

    return measure
