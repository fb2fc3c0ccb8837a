"""Random draws under control, so that train mode can be compared exactly.

Dropout and stochastic depth draw from torch's generator. `ControlledRandomness` answers every such draw itself: each
uniform number becomes one chosen ``level``, and a Bernoulli draw of probability p becomes ``level <= p``. With level
one half everything that is kept with a probability above one half is kept (and rescaled as the model rescales it), in
either of the usual spellings: ``rand < keep``, ``floor(keep + rand)`` and ``bernoulli(keep)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.numerics.mask_expectation import Expectations

aten = torch.ops.aten

Scope = Literal["element", "sample", "batch"]


@dataclass(frozen=True)
class Draw:
    """One random draw of a forward pass."""

    shape: tuple[int, ...]
    kind: str
    """"bernoulli", "uniform", "dropout" or "normal"."""
    probability: float | None
    """Of one, for a Bernoulli draw whose probability is one number."""

    def scope(self, batch: int) -> Scope:
        """What one number of the draw decides: an element, a whole sample, or the whole batch."""
        count = 1
        for side in self.shape:
            count *= side
        if count == 1:
            return "batch"
        return "sample" if (count == batch and self.shape[0] == batch) or _in_rows(self.shape, batch) else "element"

    def decisions(self, batch: int) -> int:
        """How many are made for each sample: one, or one for each row where all branches are drawn for at once."""
        return self.shape[0] if _in_rows(self.shape, batch) else 1

    @property
    def trivial(self) -> bool:
        """Whether the draw can only come out one way."""
        return self.probability is not None and self.probability in (0.0, 1.0)


def gathered(draws: Sequence[Draw], batch: int, fewer: Sequence[Draw], fewer_samples: int) -> list[Draw]:
    """``draws`` with those made sample by sample in a loop put together: as many as samples become one for all of them.

    ``fewer`` are the draws of the same pass over ``fewer_samples``. Numbers that decide for the whole batch, and masks
    that serve the whole batch, are as many for any batch; those of a loop over samples are in proportion to it. Of
    one shape either all are made in such a loop, or none is taken to be.
    """
    counts, there = Counter(d.shape for d in draws), Counter(d.shape for d in fewer)
    looped = {shape for shape, n in counts.items() if n % batch == 0 and n * fewer_samples == there[shape] * batch}
    together: list[Draw] = []
    waiting: dict[tuple[int, ...], list[Draw]] = {shape: [] for shape in looped}
    for draw in draws:
        if draw.shape not in looped:
            together.append(draw)
            continue
        run = waiting[draw.shape]
        run.append(draw)
        if len(run) == batch:
            same = {d.probability for d in run}
            together.append(Draw((batch, *draw.shape), draw.kind, same.pop() if len(same) == 1 else None))
            run.clear()
    return together


def _in_rows(shape: tuple[int, ...], batch: int) -> bool:
    """Whether there is a row for each branch and a column for each sample."""
    return len(shape) == 2 and shape[1] == batch and shape[0] not in (1, batch)


class ControlledRng(TorchDispatchMode):
    """Answers every random draw and keeps a list of them in ``draws``.

    ``level`` is one number, or one per sample, for draws that decide for a sample or the batch. ``elements`` says what
    element-wise Bernoulli draws become: "scaled" keeps every element with the rescaling that the model applies,
    "identity" also undoes that rescaling, as if the rate were zero; what is made of element-wise uniform numbers then
    is its expectation.
    ``element_level`` is the level of element-wise draws.
    """

    def __init__(
        self,
        level: float | Sequence[float] = 0.5,
        *,
        batch: int,
        elements: Literal["scaled", "identity"] = "scaled",
        element_level: float = 0.5,
    ) -> None:
        super().__init__()
        self.level = level
        self.batch = batch
        self.elements = elements
        self.element_level = element_level
        self.draws: list[Draw] = []
        self._expectations = Expectations()
        self._singles = 0

    def _uniform(self, like: Tensor) -> Tensor:
        if _in_rows(tuple(like.shape), self.batch) and not isinstance(self.level, float):
            return torch.tensor(self.level, dtype=like.dtype, device=like.device).expand(like.shape).clone()
        if like.numel() not in (1, self.batch) and not _in_rows(tuple(like.shape), self.batch):
            return self._followed(torch.full_like(like, self.element_level))
        if isinstance(self.level, float):
            return torch.full_like(like, self.level)
        if like.numel() == 1:  # of a loop over the samples: their turns come round, branch after branch
            self._singles += 1
            return torch.full_like(like, self.level[(self._singles - 1) % len(self.level)])
        if like.ndim and like.shape[0] == self.batch and like.numel() == self.batch:
            levels = torch.tensor(self.level, dtype=like.dtype, device=like.device)
            return levels.reshape(like.shape).clone()
        return torch.full_like(like, 0.5)

    def _followed(self, drawn: Tensor) -> Tensor:
        return self._expectations.follow(drawn) if self.elements == "identity" else drawn

    def _bernoulli(self, like: Tensor, probability: float | Tensor) -> Tensor:
        scalar = probability if isinstance(probability, float) else None
        draw = Draw(tuple(like.shape), "bernoulli", scalar)
        self.draws.append(draw)
        if self.elements == "identity" and draw.scope(self.batch) == "element":  # the model divides by it next
            return (
                torch.full_like(like, probability) if isinstance(probability, float) else probability.to(like).clone()
            )
        return (self._uniform(like) <= probability).to(like.dtype)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace draws; pass everything else on."""
        answer = _ANSWERS.get(func)
        if answer is None:
            expected = self._expectations.answer(func, args, kwargs or {})
            return func(*args, **(kwargs or {})) if expected is None else expected
        return answer(self, func, args, dict(kwargs or {}))

    # Each answer mirrors the schema of the operator that it stands in for.

    def _answer_dropout(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, p, train = args[0], float(args[1]), args[2] if len(args) > 2 else True
        if train is False or p == 0.0:
            return func(*args, **kwargs)
        self.draws.append(Draw(tuple(x.shape), "dropout", 1.0 - p))
        if self.elements == "identity":
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        mask = torch.full_like(x, self.element_level <= 1.0 - p, dtype=torch.bool)
        return x * mask / (1.0 - p), mask

    def _answer_dropout_backward(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        gradient, mask, scale = args
        return gradient.clone() if self.elements == "identity" else gradient * mask * scale

    def _answer_bernoulli_in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        return args[0].copy_(self._bernoulli(args[0], probability))

    def _answer_bernoulli(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        probability = args[1] if len(args) > 1 else kwargs.get("p")
        return self._bernoulli(args[0], args[0] if probability is None else probability)

    def _answer_uniform_in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
        high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
        self.draws.append(Draw(tuple(args[0].shape), "uniform", None))
        drawn = args[0].copy_(low + (high - low) * self._uniform(args[0]))
        plain = (low, high) == (0.0, 1.0) and args[0].numel() not in (1, self.batch)
        return self._followed(drawn) if plain else drawn

    def _answer_rand(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        drawn = func(*args, **kwargs)
        self.draws.append(Draw(tuple(drawn.shape), "uniform", None))
        return self._uniform(drawn)

    def _answer_normal_in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.draws.append(Draw(tuple(args[0].shape), "normal", None))
        return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("mean", 0.0))

    def _answer_randn(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        drawn = func(*args, **kwargs)
        self.draws.append(Draw(tuple(drawn.shape), "normal", None))
        return torch.zeros_like(drawn)


_Answer = Callable[[ControlledRng, Any, tuple[Any, ...], dict[str, Any]], Any]

_ANSWERS: dict[Any, _Answer] = {
    aten.native_dropout.default: ControlledRng._answer_dropout,
    aten.native_dropout_backward.default: ControlledRng._answer_dropout_backward,
    aten.bernoulli_.float: ControlledRng._answer_bernoulli_in_place,
    aten.bernoulli_.Tensor: ControlledRng._answer_bernoulli_in_place,
    aten.bernoulli.default: ControlledRng._answer_bernoulli,
    aten.bernoulli.p: ControlledRng._answer_bernoulli,
    aten.uniform_.default: ControlledRng._answer_uniform_in_place,
    aten.rand.default: ControlledRng._answer_rand,
    aten.rand.generator: ControlledRng._answer_rand,
    aten.rand_like.default: ControlledRng._answer_rand,
    aten.normal_.default: ControlledRng._answer_normal_in_place,
    aten.randn.default: ControlledRng._answer_randn,
    aten.randn_like.default: ControlledRng._answer_randn,
}


class Recorded(TorchDispatchMode):
    """Leaves random draws alone, and keeps what came out."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self._drawn: dict[Scope, list[Tensor]] = {}

    def of(self, scope: Scope) -> Tensor:
        """All numbers that decided for one ``scope``, one after the other."""
        return torch.cat([torch.empty(0), *self._drawn.get(scope, ())])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Keep a copy of the outcome of each draw."""
        out = func(*args, **(kwargs or {}))
        if func in _ANSWERS:
            numbers = out[1] if isinstance(out, tuple) else out
            draw = Draw(tuple(numbers.shape), "", None)
            self._drawn.setdefault(draw.scope(self.batch), []).append(numbers.detach().float().flatten().clone())
        return out
