"""Feature extraction on features that are computed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from suites.transfer.layer_groups import find_module
from suites.transfer.recipe import FineTuning

Examples = Dataset[tuple[Tensor, int]] | Dataset[tuple[Tensor, ...]]
"""An image and its class each."""
LOOKS = 16
"""How often one image is fetched to see whether it is drawn anew: a flip with probability 1/2 stays unseen in one of
2 ** 15 cases; a rarer one is found by the name of its transform."""
RANDOM = ("Random", "ColorJitter", "AutoAugment", "RandAugment", "TrivialAugment", "AugMix", "MixUp", "CutMix")


def cache_features(tuning: FineTuning, dataset: Examples, *, batch_size: int = 64) -> TensorDataset:
    """What enters the head for every image of ``dataset``, with its labels: (images, width) and (images,).

    Train ``tuning.model``'s head on it: an epoch then costs what the head costs. Raises ValueError where a cache would
    be wrong: more than the head trains; images are drawn anew each time (augmentation); in train mode the backbone
    gives other features than in eval mode (BatchNorm's statistics of the batch, dropout); or something follows the
    head. The mode of the model and the random generator are put back.
    """
    model, head = tuning.model, find_module(tuning.model, tuning.head)
    own = {id(p) for p in head.parameters()}
    others = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    if others:
        raise ValueError(f"{others[0]} trains as well: its features change with every step and can't be kept")
    _refuse_augmentation(dataset)
    training, device = model.training, next(model.parameters()).device
    features: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for images, batch_labels in DataLoader(dataset, batch_size):
            images = images.to(device)
            kept, output = _through(model.eval(), head, images)
            if not features:
                _refuse_train_mode(model, head, images, kept)
                if not torch.equal(head(kept), output):
                    raise ValueError(f"{tuning.head} is not the end of the network: what follows it would be left out")
            features.append(kept)
            labels.append(batch_labels)
    model.train(training)
    return TensorDataset(torch.cat(features), torch.cat(labels))


def _through(model: nn.Module, head: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    handle = head.register_forward_pre_hook(keep)
    try:
        output = model(images)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(f"the head is called {len(seen)} times in a forward pass; expected once")
    return seen[0], output


def _refuse_train_mode(model: nn.Module, head: nn.Module, images: Tensor, kept: Tensor) -> None:
    in_train_mode, _ = _through(model.train(), head, images)
    model.eval()
    if not torch.equal(in_train_mode, kept):
        raise ValueError("in train mode the backbone gives other features: BatchNorm or dropout is at work in it")


def _refuse_augmentation(dataset: Any) -> None:
    named = [name for name in _transforms(dataset) if name.startswith(RANDOM)]
    if named:
        raise ValueError(f"images are augmented ({named[0]}): a cache would keep one draw of each for ever")
    first = dataset[0][0]
    if any(not torch.equal(dataset[0][0], first) for _ in range(LOOKS - 1)):
        raise ValueError("the same image is another one each time it is fetched: augmentation can't be cached")


def _transforms(dataset: Any) -> Iterator[str]:
    """Names of the transforms that a data set declares, in the order of application."""
    waiting = [getattr(dataset, "transform", None), getattr(dataset, "dataset", None)]
    while waiting:
        part = waiting.pop(0)
        if part is None:
            continue
        yield type(part).__name__
        inner = getattr(part, "transforms", None)
        waiting += [*(inner if isinstance(inner, list | tuple) else ()), getattr(part, "transform", None)]
