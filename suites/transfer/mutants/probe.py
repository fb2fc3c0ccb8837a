"""Shows that a recipe differs from the correct one, without the checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.probe import Pair, difference
from harness.mutants.variant import mutant

STEPS = 2


class Witness(nn.Module):
    """A network of four convolutions with BatchNorm, dropout, a last norm and a linear head called ``head``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.dropout = nn.Dropout(0.3)
        self.fourth = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 3)."""
        x = self.fourth(self.dropout(self.third(self.second(self.first(x)))))
        return self.head(self.norm(x).mean((2, 3)))


class DeepWitness(nn.Module):
    """A network of twelve linear blocks and a linear head called ``head``, on the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Identity()) for _ in range(12)))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 3)."""
        return self.head(self.blocks(self.stem(x.mean((2, 3)))))


def _by_steps(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def _sgd(groups: Any, **keywords: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=keywords.get("lr", 0.05), momentum=0.9)


def training(pair: Pair) -> float:
    """The largest of any weight or statistic over the phases of a short training, one where the faulty one raises."""
    try:
        return _largest([_trained(pair.correct), _trained(pair.faulty)])
    except Exception:  # a recipe that can't train is faulty beyond doubt
        return 1.0


training_fault = partial(mutant, category="training", evidence=training)
"""`mutant` for a recipe under which a short training ends elsewhere."""


def memory(pair: Pair) -> float:
    """The share of parameters that receive gradients, and activations that carry a graph, which should not."""
    counts = []
    for recipe in (pair.correct, pair.faulty):
        model, _ = _started(recipe)
        features: list[Tensor] = []
        model.get_submodule("head").register_forward_pre_hook(lambda _, inputs, kept=features: kept.append(inputs[0]))
        model(_images(0)).sum().backward()
        counts.append(sum(p.grad is not None for p in model.parameters()) + features[0].requires_grad)
    return float(abs(counts[0] - counts[1]))


def acceptance(pair: Pair) -> float:
    """One where a head that is not there is accepted, or refused without its name."""
    try:
        pair.faulty(Witness(), "no_such_head")
    except Exception as error:
        return 0.0 if "no_such_head" in str(error) else 1.0
    return 1.0


def scheduled(pair: Pair) -> float:
    """As `training`, with a schedule that halves all rates in each step."""
    given: dict[str, Any] = {"scheduler": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}
    return _largest([_trained(recipe, **given) for recipe in (pair.correct, pair.faulty)])


def reloaded(pair: Pair) -> float:
    """As `training`, saved and loaded into a new one between the steps."""
    states = []
    for recipe in (pair.correct, pair.faulty):
        model, tuning = _started(recipe)
        _step(model, tuning, 0)
        again, fresh = _started(recipe)
        again.load_state_dict(model.state_dict())
        fresh.load_state_dict(tuning.state_dict())
        _step(again, fresh, 1)
        states.append(dict(again.state_dict()))
    return _largest(states)


def deep(pair: Pair) -> float:
    """As `training`, on twelve blocks."""
    return _largest([_trained(recipe, DeepWitness) for recipe in (pair.correct, pair.faulty)])


def scheduled_reload(pair: Pair) -> float:
    """As `reloaded`, with a schedule that divides by the number of steps."""
    states = []
    for recipe in (pair.correct, pair.faulty):
        given: dict[str, Any] = {"scheduler": _by_steps}
        model, tuning = _started(recipe, **given)
        _step(model, tuning, 0)
        tuning.scheduler.step()
        again, fresh = _started(recipe, **given)
        again.load_state_dict(model.state_dict())
        fresh.load_state_dict(tuning.state_dict())
        for number in (1, 2):
            _step(again, fresh, number)
            fresh.scheduler.step()
        states.append(dict(again.state_dict()))
    return _largest(states)


def evaluation(pair: Pair) -> float:
    """How far logits in eval mode are off, for the same images before and after a step."""
    images, answers = _images(5), []
    for recipe in (pair.correct, pair.faulty):
        model, tuning = _started(recipe)
        model.eval()(images)
        torch.manual_seed(0)
        _step(model, tuning, 0)
        answers.append(model.eval()(images).detach())
    return difference(answers[1], answers[0])


def names_added(pair: Pair) -> float:
    """How many tensors the state of one has that the other's has not."""
    first, second = (set(_started(recipe)[0].state_dict()) for recipe in (pair.correct, pair.faulty))
    return float(len(first ^ second))


def reseeding(pair: Pair) -> float:
    """One where two seeds give the same number after the faulty recipe is applied."""
    drawn = []
    for seed in (11, 12):
        model = Witness()
        torch.manual_seed(seed)
        pair.faulty(model, "head")
        drawn.append(float(torch.rand(())))
    return float(drawn[0] == drawn[1])


def large_batch(pair: Pair) -> float:
    """As `training`, one step on twelve images."""
    states = []
    for recipe in (pair.correct, pair.faulty):
        model, tuning = _started(recipe)
        _step(model, tuning, 0, copies=3)
        states.append(dict(model.state_dict()))
    return _largest(states)


def _started(
    recipe: Callable[..., Any], network: Callable[[], nn.Module] = Witness, **given: Any
) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = network().double().train()
    model(_images(3))  # statistics that are not those of no data
    return model, recipe(model, "head", lr=0.05, weight_decay=0.3, optimizer=_sgd, **given)


def _trained(recipe: Callable[..., Any], network: Callable[[], nn.Module] = Witness, **given: Any) -> dict[str, Tensor]:
    model, tuning = _started(recipe, network, **given)
    for phase in range(20):
        for step in range(STEPS):
            torch.manual_seed(step)
            _step(model, tuning, phase + step)
            if getattr(tuning, "scheduler", None) is not None:
                tuning.scheduler.step()
        if not hasattr(tuning, "advance") or not tuning.advance():
            break
    return dict(model.state_dict())


def _step(model: nn.Module, tuning: Any, number: int, copies: int = 1) -> None:
    optimizer = getattr(tuning, "optimizer", tuning)
    model.train()
    optimizer.zero_grad()
    images, labels = _images(number).repeat(copies, 1, 1, 1), torch.tensor([0, 1, 2, 0]).repeat(copies)
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


def _images(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(4, 3, 20, 20, generator=generator, dtype=torch.float64) + number


def _largest(states: list[dict[str, Tensor]]) -> float:
    correct, faulty = ({n: t.detach().double() for n, t in state.items()} for state in states)
    return max(difference(faulty[n], t) for n, t in correct.items() if n in faulty)
