"""What a recipe returned, as the checks see it, and the plain loop that trains with it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.bench.bench import Bench
from harness.errors import SubjectError, first_line
from harness.subjects.outputs import describe, logits_of
from suites.transfer.checks.backbones import BATCH, CLASSES, Backbone

LR, WEIGHT_DECAY, MOMENTUM = 0.02, 0.1, 0.9
MOST_PHASES = 50
CONTRACT = (
    "a recipe returns an optimizer; or an object with `optimizer` and, where it has phases, `advance()`, which enters "
    "the next one and gives False after the last; or a generator of optimizers, one for each phase"
)
RAISED = (Exception, SystemExit)
"""What a recipe may end with."""


def momentum_sgd(groups: Any, **keywords: Any) -> Optimizer:
    """The optimizer that recipes are given: its steps are easy to tell from each other."""
    return torch.optim.SGD(groups, **{"lr": LR, "momentum": MOMENTUM, **keywords})


class Plan:
    """One recipe applied to one network, ``given``, whose parameters' names are used throughout."""

    def __init__(self, bench: Bench, backbone: Backbone, *, seed: int = 0, **keywords: Any) -> None:
        self.who = f"{bench.who}, on {backbone.name}"
        self.backbone = backbone
        self.given = backbone.model(seed)
        recipe = bench.subject.factory
        wanted = {"lr": LR, "weight_decay": WEIGHT_DECAY, "optimizer": momentum_sgd, **keywords}
        self.keywords = {k: v for k, v in wanted.items() if _takes(recipe, k)}
        try:
            self._result = recipe(self.given, backbone.head, **self.keywords)
            self._phases = self._result if isinstance(self._result, Iterator) else None
            if self._phases is not None:
                self._result = next(self._phases, None)
        except RAISED as error:
            call = ", ".join(("model", repr(backbone.head), *self.keywords))
            raise SubjectError(
                f"{self.who}: {bench.subject.factory_name}({call}) raised {type(error).__name__}: {first_line(error)}"
            ) from error
        if self._phases is not None and self._result is None:
            raise SubjectError(f"{self.who}: the generator yields no optimizer; {CONTRACT}")
        self.phase = 0
        returned = self._find(nn.Module, "model")
        self.model: nn.Module = returned if returned is not None else self.given
        """The network to train: the recipe's own where it returns one."""
        if returned is not None and returned.state_dict().keys() == self.given.state_dict().keys():
            self.given = returned

    @property
    def _parts(self) -> list[Any]:
        parts = self._result if isinstance(self._result, tuple | list) else ()
        return [self._result, *parts]  # a named tuple is looked at before it is taken apart

    def _find(self, kind: type, attribute: str) -> Any:
        for part in self._parts:
            found = part if isinstance(part, kind) else getattr(part, attribute, None)
            if isinstance(found, kind):
                return found
        return None

    @property
    def optimizer(self) -> Optimizer:
        """Of this phase. Raises SubjectError that states the contract where there is none."""
        found = self._find(Optimizer, "optimizer")
        if found is None:
            raise SubjectError(f"{self.who}: returned {describe(self._result)}; {CONTRACT}")
        assert isinstance(found, Optimizer)
        return found

    @property
    def scheduler(self) -> LRScheduler | None:
        """The recipe's own, if any."""
        found: LRScheduler | None = self._find(LRScheduler, "scheduler")
        return found

    @property
    def has_phases(self) -> bool:
        """Whether it says how to go on."""
        return self._phases is not None or self._advancing() is not None

    def _advancing(self) -> Callable[[], Any] | None:
        return next((a for p in self._parts if callable(a := getattr(p, "advance", None))), None)

    def advance(self) -> bool:
        """Enter the next phase; False where there is none."""
        try:
            if self._phases is not None:
                following = next(self._phases, None)
                if following is None:
                    return False
                self._result = following
            else:
                advancing = self._advancing()
                went_on = advancing() if advancing is not None else False
                if went_on is not None and not went_on:  # NumPy's False too
                    return False
        except RAISED as error:
            raise SubjectError(
                f"{self.who}: entering phase {self.phase + 1} raised {type(error).__name__}: {first_line(error)}"
            ) from error
        self.phase += 1
        assert self.phase < MOST_PHASES, f"{self.who}: advance() never gave False in {MOST_PHASES} phases"
        return True

    def phases(self) -> Iterator[int]:
        """Each phase in turn, from the present one on."""
        yield self.phase
        while self.advance():
            yield self.phase

    def to_phase(self, phase: int) -> Plan:
        """Advance without training."""
        while self.phase < phase:
            assert self.advance(), f"{self.who}: has no phase {phase} this time"
        return self

    def trainable(self) -> set[str]:
        """Names of the parameters that require gradients now."""
        return {n for n, p in self.given.named_parameters() if p.requires_grad}

    def train(self, step: int, size: int = BATCH) -> float:
        """One step of a plain loop in train mode; the loss before it."""
        self.model.train()
        return train_step(self.model, self.optimizer, self.backbone.batch(step, size), self.who)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (batch, 5) without a graph, in the mode that the network is in. Raises SubjectError."""
        try:
            with torch.no_grad():
                return logits_of(self.model(images), CLASSES)
        except RAISED as error:
            mode = "train" if self.model.training else "eval"
            raise SubjectError(
                f"{self.who}: in {mode} mode forward raised {type(error).__name__}: {first_line(error)}"
            ) from error

    def step_schedule(self) -> None:
        """A step of the recipe's scheduler, if any. Raises SubjectError where it raises."""
        scheduler = self.scheduler
        try:
            if scheduler is not None:
                scheduler.step()
        except RAISED as error:
            raise SubjectError(
                f"{self.who}: in phase {self.phase} scheduler.step() raised {type(error).__name__}: {first_line(error)}"
            ) from error

    def state(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers by name."""
        return {n: t.detach().clone() for n, t in self.given.state_dict().items()}

    def saved(self) -> list[dict[str, Any]]:
        """What the recipe keeps beside the network: its own ``state_dict``, or the optimizer's and the scheduler's."""
        return [copy.deepcopy(keeper.state_dict()) for keeper in self._keepers()]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Load what `saved` gave. Raises SubjectError where that fails."""
        try:
            for keeper, state in zip(self._keepers(), saved, strict=True):
                keeper.load_state_dict(state)
        except RAISED as error:
            raise SubjectError(
                f"{self.who}: loading its own state raised {type(error).__name__}: {first_line(error)}"
            ) from error

    @property
    def keeps_phase(self) -> bool:
        """Whether what enters the next phase has a state of its own, of which the phase is then part."""
        own = self._own_keeper()
        return own is not None and callable(getattr(own, "advance", None))

    def _own_keeper(self) -> Any:
        known = (nn.Module, Optimizer, LRScheduler)
        own = [p for p in self._parts if not isinstance(p, known) and hasattr(p, "load_state_dict")]
        return own[0] if len(own) == 1 else None

    def _keepers(self) -> list[Any]:
        own = self._own_keeper()
        keeper = self.optimizer if own is None else own
        scheduler = self.scheduler
        if scheduler is None or scheduler is getattr(keeper, "scheduler", None):
            return [keeper]
        return [keeper, scheduler]


def train_step(model: nn.Module, optimizer: Optimizer, batch: tuple[Tensor, Tensor], who: str) -> float:
    """Zero the gradients, cross-entropy, backward, step. Raises SubjectError where any of it raises."""
    return loud_step(model, optimizer, [batch], who, loudness=1.0)


def loud_step(
    model: nn.Module, optimizer: Optimizer, batches: Iterable[tuple[Tensor, Tensor]], who: str, *, loudness: float
) -> float:
    """As `train_step`, with the gradients of all ``batches`` added up, of losses ``loudness`` times as large."""
    total = 0.0
    try:
        optimizer.zero_grad()
        for images, labels in batches:
            loss = loudness * cross_entropy(logits_of(model(images), CLASSES), labels)
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
    except RAISED as error:
        raise SubjectError(f"{who}: a training step raised {type(error).__name__}: {first_line(error)}") from error
    return total


def _takes(recipe: Callable[..., Any], keyword: str) -> bool:
    try:
        parameters = inspect.signature(recipe).parameters
    except (TypeError, ValueError):
        return False
    return keyword in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def uncounted(name: str) -> bool:
    """Whether a tensor of this name counts batches, which norms that are frozen for good go without."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def some(names: Any) -> str:
    """The first three names, and how many more."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
