"""Fine-tuning recipes for any network, by the name of its head.

- `feature_extraction`: the backbone is frozen for real, only the head trains.
- `two_learning_rates`: everything trains, the backbone at a lower rate than the head.
- `gradual_unfreezing`: from the head down, layer by layer, lower rates for earlier layers (Howard and Ruder 2018,
  arXiv:1801.06146, sections 3.2 and 3.3).
- `layerwise_decay`: everything trains, each layer at ``decay`` times the rate of the layer after it (Clark et al. 2020,
  arXiv:2003.10555, and BEiT, arXiv:2106.08254).
- `lp_ft`: first the head alone, then everything (Kumar et al. 2022, arXiv:2202.10054).
- `full_fine_tuning`: everything at one rate, what the others are compared with.

Each returns a `FineTuning`, whose optimizer holds every parameter from the start, in groups that never change: a frozen
parameter has no gradient, so the optimizer leaves it alone, state and weight decay included. Schedulers therefore cover
all groups, whether they were made before or after a layer is unfrozen, and an optimizer's state is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from suites.transfer.layer_groups import candidates, find_module, inside, layers_of

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class FineTuning:
    """A network in training: ``model``, its ``optimizer``, an optional ``scheduler``, and the phase that it is in.

    ``phases`` holds, for each phase, the names of the parameters that train in it. What does not train is held: no
    gradient, and its modules stay in eval mode through every call of ``train()``, so that BatchNorm's statistics do not
    move and dropout does nothing there.
    """

    def __init__(
        self,
        recipe: str,
        model: nn.Module,
        head: str,
        optimizer: Optimizer,
        phases: Sequence[Iterable[str]],
        scheduler: SchedulerFactory | None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.head = head
        self.optimizer = optimizer
        self.phases = [frozenset(names) for names in phases]
        self.scheduler = scheduler(optimizer) if scheduler is not None else None
        self.enter(0)

    def enter(self, phase: int) -> None:
        """Train what belongs to ``phase`` (from 0) and hold the rest. Weights and optimizer state stay as they are."""
        if not 0 <= phase < len(self.phases):
            raise ValueError(f"phase {phase}: {self.recipe} has {len(self.phases)}, counted from 0")
        self.phase = phase
        trained = self.phases[phase]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
        held = _held_modules(self.model, find_module(self.model, self.head))
        for module in self.model.modules():
            hooks = module._forward_pre_hooks  # read here, so that a copy of the model, or another recipe, lets go too
            was_held = [key for key, hook in hooks.items() if hook is _stay_in_eval]
            for key in was_held:
                del hooks[key]
            if was_held:
                module.training = self.model.training
        for module in held:
            module.register_forward_pre_hook(_stay_in_eval)
            module.training = False

    def advance(self) -> bool:
        """Enter the next phase; False, and nothing happens, where this is the last one."""
        if self.phase + 1 == len(self.phases):
            return False
        self.enter(self.phase + 1)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's own state."""
        return {
            "recipe": self.recipe,
            "phase": self.phase,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError for the state of another recipe."""
        if state["recipe"] != self.recipe:
            raise ValueError(f"this is the state of {state['recipe']}, not of {self.recipe}")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.enter(state["phase"])


def feature_extraction(
    model: nn.Module,
    head: str,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory = torch.optim.AdamW,
    scheduler: SchedulerFactory | None = None,
) -> FineTuning:
    """Train the head alone, at ``lr``."""
    layers = layers_of(model, head)
    shared = {id(p) for p in find_module(model, head).parameters()}
    outside = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in shared and not inside(n, head)]
    if outside:
        raise ValueError(f"{head} shares {outside[0]} with the backbone: training the one would change the other")
    groups = _groups(model, [(layers[-1], lr)], weight_decay)
    return FineTuning("feature_extraction", model, head, optimizer(groups), [layers[-1]], scheduler)


def full_fine_tuning(
    model: nn.Module,
    head: str,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory = torch.optim.AdamW,
    scheduler: SchedulerFactory | None = None,
) -> FineTuning:
    """Train everything at ``lr``."""
    names = _all(layers_of(model, head))
    groups = _groups(model, [(names, lr)], weight_decay)
    return FineTuning("full_fine_tuning", model, head, optimizer(groups), [names], scheduler)


def two_learning_rates(
    model: nn.Module,
    head: str,
    *,
    lr: float = 1e-3,
    backbone_lr: float | None = None,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory = torch.optim.AdamW,
    scheduler: SchedulerFactory | None = None,
) -> FineTuning:
    """Train the head at ``lr`` and the backbone at ``backbone_lr``, by default a tenth of it."""
    *backbone, last = layers_of(model, head)
    rate = _lower(backbone_lr, lr)
    groups = _groups(model, [(_all(backbone), rate), (last, lr)], weight_decay)
    return FineTuning("two_learning_rates", model, head, optimizer(groups), [_all([*backbone, last])], scheduler)


def gradual_unfreezing(
    model: nn.Module,
    head: str,
    *,
    lr: float = 1e-3,
    decay: float = 0.7,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory = torch.optim.AdamW,
    scheduler: SchedulerFactory | None = None,
) -> FineTuning:
    """One phase per layer: the head at ``lr``, then also the layer before it at ``decay`` times that, and so on.

    Howard and Ruder divide by 2.6 from layer to layer of their four; over the ten of a convolutional network that would
    leave the first ones where they are.
    """
    layers = layers_of(model, head)
    groups = _groups(model, _decayed(layers, lr, decay), weight_decay)
    phases = [_all(layers[-count:]) for count in range(1, len(layers) + 1)]
    return FineTuning("gradual_unfreezing", model, head, optimizer(groups), phases, scheduler)


def layerwise_decay(
    model: nn.Module,
    head: str,
    *,
    lr: float = 1e-3,
    decay: float = 0.75,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory = torch.optim.AdamW,
    scheduler: SchedulerFactory | None = None,
) -> FineTuning:
    """Train everything: the head at ``lr``, each layer at ``decay`` times the rate of the next one.

    The layers are blocks. The scale is part of each group's ``lr``: a separate entry would act only under a scheduler
    that knows it.
    """
    layers = layers_of(model, head, coarse=False)
    groups = _groups(model, _decayed(layers, lr, decay), weight_decay)
    return FineTuning("layerwise_decay", model, head, optimizer(groups), [_all(layers)], scheduler)


def lp_ft(
    model: nn.Module,
    head: str,
    *,
    lr: float = 1e-3,
    backbone_lr: float | None = None,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory = torch.optim.AdamW,
    scheduler: SchedulerFactory | None = None,
) -> FineTuning:
    """First the head alone at ``lr``; then everything, the backbone at ``backbone_lr``, by default a tenth of it."""
    *backbone, last = layers_of(model, head)
    groups = _groups(model, [(_all(backbone), _lower(backbone_lr, lr)), (last, lr)], weight_decay)
    return FineTuning("lp_ft", model, head, optimizer(groups), [last, _all([*backbone, last])], scheduler)


def replace_head(model: nn.Module, head: str, num_classes: int) -> nn.Module:
    """Put a new linear layer for ``num_classes`` in place of the one called ``head``, in place; returns ``model``.

    It keeps dtype and device of the old one. Raises ValueError, and leaves ``model`` as it was, where ``num_classes``
    is under 1 or ``head`` names no `nn.Linear`.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: must be at least 1")
    old = find_module(model, head)
    if not isinstance(old, nn.Linear):
        raise ValueError(f"{head} is a {type(old).__name__}; only an nn.Linear can be replaced. {candidates(model)}")
    new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    nn.init.trunc_normal_(new.weight, std=0.01)
    nn.init.zeros_(new.bias)
    model.set_submodule(head, new.train(old.training))
    return model


def _held_modules(model: nn.Module, head: nn.Module) -> list[nn.Module]:
    """Modules whose every parameter is frozen, with all inside them. One without parameters follows the part before
    it: what the position embedding's dropout sees is frozen until the embedding trains."""
    held: dict[int, nn.Module] = {}
    spared = {id(m) for m in head.modules()}

    def visit(module: nn.Module) -> None:
        before = True  # what comes first sees the images
        for child in module.children():
            if id(child) in spared:
                continue
            parameters = list(child.parameters())
            if parameters:
                before = not any(p.requires_grad for p in parameters)
            if before:
                held.update((id(m), m) for m in child.modules() if id(m) not in spared)
            else:
                visit(child)

    if any(not p.requires_grad for p in model.parameters()):
        visit(model)
    return list(held.values())


def _stay_in_eval(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    module.training = False


def _groups(
    model: nn.Module, layers: Sequence[tuple[Sequence[str], float]], weight_decay: float
) -> list[dict[str, Any]]:
    """Two groups for each layer: matrices and filters with weight decay; norms and biases, which are vectors, without.

    Raises ValueError for a rate that is not positive.
    """
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for names, rate in layers:
        if not rate > 0:
            raise ValueError(f"learning rate {rate:g}: must be positive")
        matrices: list[Tensor] = [parameters[n] for n in names if parameters[n].ndim > 1]
        vectors: list[Tensor] = [parameters[n] for n in names if parameters[n].ndim <= 1]
        if matrices:
            groups.append({"params": matrices, "lr": rate, "weight_decay": weight_decay})
        if vectors:
            groups.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
    return groups


def _decayed(layers: Sequence[Sequence[str]], lr: float, decay: float) -> list[tuple[Sequence[str], float]]:
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay:g}: must lie in (0, 1], or earlier layers would learn faster than later ones")
    return [(names, lr * decay ** (len(layers) - 1 - index)) for index, names in enumerate(layers)]


def _lower(backbone_lr: float | None, lr: float) -> float:
    rate = lr / 10 if backbone_lr is None else backbone_lr
    if rate > lr:
        raise ValueError(f"backbone_lr={rate:g} is above lr={lr:g}: the backbone is to learn slower than the head")
    return rate


def _all(layers: Iterable[Iterable[str]]) -> list[str]:
    return [name for layer in layers for name in layer]
