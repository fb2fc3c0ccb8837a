"""One subject on the bench: its models are built once and shared by all checks."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from harness.errors import SubjectError, first_line, some_of
from harness.numerics.skip_init import SkipInit
from harness.process.memory_reuse import trim_heap
from harness.records.verdicts import HUNG
from harness.subjects.facts import Architecture, Family
from harness.subjects.module_contract import expect_contract
from harness.subjects.outputs import logits_of
from harness.subjects.subject import CHANNEL_KEYWORDS, SIZE_KEYWORDS, Subject

CLASSES = 10
"""Classes of the models that are run on real values; facts are checked with 1,000."""


SAID = " (said in full by the first check that met it)"


def is_timeout(error: BaseException) -> bool:
    """Whether pytest-timeout raised it. Kept from Hypothesis, which would call what hangs once more."""
    return type(error).__name__ == "Failed" and "pytest-timeout" in str(error)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's CPU generator started from ``seed``, and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Bench:
    """What the checks are given: the subject, its facts, and models of it that were built once.

    ``notes`` is for figures that a check wants kept with its outcome (errors and bounds).
    """

    def __init__(
        self, subject: Subject, *, seed: int = 0, device: str = "cpu", compile_backend: str = "aot_eager"
    ) -> None:
        self.subject = subject
        self.seed = seed
        self.device = device
        self.compile_backend = compile_backend
        self.breadth = 1.0
        """Share of the profile's examples that the checks on the meta device draw."""
        self.notes: dict[str, Any] = {}
        self._failure: SubjectError | None = None
        self._keeps_contract = False
        self._hung = ""
        self._shared: dict[str, Any] = {}
        self._built: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @property
    def label(self) -> str:
        """The implementation's label."""
        return self.subject.label

    @property
    def who(self) -> str:
        """How messages name the subject."""
        return self.subject.who

    @property
    def architecture(self) -> Architecture:
        """Published facts."""
        return self.subject.architecture

    @property
    def family(self) -> Family:
        """The suite's family."""
        return self.subject.family

    def build(self, num_classes: int = 1000, *, seeding: bool = True, **keywords: Any) -> nn.Module:
        """A new module on the default device, seeded unless ``seeding`` is False.

        The first failure is kept: later calls fail at once.
        """
        if self._failure is not None:
            raise self._failure
        try:
            with seeded(self.seed) if seeding else nullcontext():
                model = self._materialised(self.subject.build(num_classes, **keywords), num_classes, keywords)
            return self._new(model)
        except BaseException as error:
            if is_timeout(error):
                self._failure = SubjectError(f"{self.who}: {HUNG} while it was built")
                raise self._failure from None
            if not isinstance(error, SubjectError):
                raise
            if not keywords and torch.get_default_device().type != "meta":
                self._failure = error
            raise

    def _new(self, model: nn.Module) -> nn.Module:
        """``model``, none of whose layers belongs to one that was built before."""
        weighted = {m: n for n, m in model.named_modules() if m._parameters or m._buffers}
        both = [name or "all of it" for module, name in weighted.items() if module in self._built]
        if both:
            self._failure = SubjectError(
                f"{self.who}: two calls of the factory give networks that share layers: {some_of(both)}; "
                "expected each to have its own (a module as default argument or global, or a cached factory)"
            )
            raise self._failure
        self._built.update(weighted)
        return model

    def _materialised(self, model: nn.Module, num_classes: int, keywords: Mapping[str, Any]) -> nn.Module:
        """``model`` with the parameters that a lazy module makes at its first call."""
        if not self._keeps_contract:
            expect_contract(self.who, model)
            self._keeps_contract = True
        if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
            channels = next((v for k, v in keywords.items() if k in CHANNEL_KEYWORDS), 3)
            size = next((v for k, v in keywords.items() if k in SIZE_KEYWORDS), self.architecture.input_size)
            training = model.training
            with torch.no_grad():
                model.eval()(torch.zeros(2, channels, size, size))
            model.train(training)
        return model

    @cached_property
    def channel_keyword(self) -> str | None:
        """The factory's keyword for input channels, where it has one that acts."""
        return self._acting(CHANNEL_KEYWORDS, 5)

    @property
    def size(self) -> dict[str, Any]:
        """Keyword arguments that build the subject for images of `small_side`."""
        return {self.size_keyword: self.small_side()} if self.size_keyword else {}

    @cached_property
    def size_keyword(self) -> str | None:
        """The factory's keyword for the image size, where it has one that acts; None for size-free families."""
        if self.architecture.patch is None:
            return None
        return self._acting(SIZE_KEYWORDS, self.small_side(asking=True))

    def _acting(self, candidates: tuple[str, ...], value: int) -> str | None:
        named = self.subject.keyword(candidates)
        tried = [named] if named else list(candidates) if self.subject.takes_any_keyword() else []
        for keyword in tried:
            try:
                plain, changed = self.on_meta(CLASSES), self.on_meta(CLASSES, **{keyword: value})
            except Exception:  # the factory refuses the keyword: it does not have it
                continue
            if [p.shape for p in plain.parameters()] != [p.shape for p in changed.parameters()]:
                return keyword
        return None

    def small_side(self, *, asking: bool = False) -> int:
        """Side in pixels for depth: small where the subject allows it."""
        patch = self.architecture.patch
        if patch is None:
            return max(64, self.architecture.minimum_size)
        if asking or self.size_keyword is not None:
            return min(3 * patch, self.architecture.input_size)
        return self.architecture.input_size

    def small(self, num_classes: int = CLASSES) -> nn.Module:
        """A new module for images of `small_side`."""
        return self.build(num_classes, **self.size)

    def small_copy(self) -> nn.Module:
        """A copy of one module for images of `small_side` that is built once; a new one where it can't be copied."""
        original = self.shared("original", self._original)
        return self.small() if original is None else copy.deepcopy(original)

    def _original(self) -> nn.Module | None:
        """What `small_copy` copies; None where a copy can't be made, or does not compute what its original does.

        A module that holds a lock is legal, and so is one with a hook that writes to the module it was made for.
        """
        model = self.small()
        if any(
            p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters()
        ):  # copies would lack them
            return None
        images = self.images(2, self.small_side()).float()
        try:
            kept, tried = copy.deepcopy(model), copy.deepcopy(model)
            if not all(p.is_leaf for p in kept.parameters()):  # as torch copies scripted modules
                return None
            with torch.no_grad():
                same = torch.equal(self.logits(tried.eval(), images), self.logits(model.eval(), images))
        except Exception:
            return None
        return kept if same else None

    def on_meta(self, num_classes: int = 1000, **keywords: Any) -> nn.Module:
        """A new weightless module in eval mode; built on the CPU first where the factory can't run on meta."""
        if self._failure is not None:
            raise self._failure
        try:
            with torch.device("meta"), SkipInit():
                model = self.build(num_classes, **keywords)
        except Exception:  # e.g. `.item()` on a schedule: only the CPU build decides whether that is a fault
            model = self.build(num_classes, **keywords)
        return model.to("meta").eval()

    def images(self, batch: int, height: int, width: int | None = None, *, seed: int = 0, channels: int = 3) -> Tensor:
        """Float64 images of (batch, channels, height, width), standard normal with a sample-wise brightness."""
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        shape = (batch, channels, height, height if width is None else width)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return noise + torch.randn((batch, channels, 1, 1), generator=generator, dtype=torch.float64)

    def logits(self, model: nn.Module, images: Tensor, num_classes: int = CLASSES) -> Tensor:
        """Run ``model``; raises SubjectError naming the input where it raises or returns no logits."""
        try:
            if not self._hung:
                return logits_of(model(images), num_classes)
        except BaseException as error:
            if is_timeout(error):
                self._hung = f"{HUNG} in a forward pass on images {tuple(images.shape)}"
                raise SubjectError(f"{self.who}: {self._hung}") from None
            if not isinstance(error, Exception | SystemExit):
                raise
            mode, dtype = "train" if model.training else "eval", str(images.dtype).removeprefix("torch.")
            raise SubjectError(
                f"{self.who}: in {mode} mode, on images {tuple(images.shape)} of {dtype}, forward raised "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        raise SubjectError(f"{self.who}: {self._hung}")

    def shared(self, key: str, make: Any) -> Any:
        """``make()``, computed once per key. An exception is kept and raised again."""
        if key not in self._shared:
            try:
                self._shared[key] = make()
            except AssertionError as error:
                said = f"{error}".partition(SAID)[0]
                self._shared[key] = SubjectError(f"{first_line(Exception(said))}{SAID}")
                raise
        value = self._shared[key]
        if isinstance(value, AssertionError):
            raise value
        return value

    def share(self, key: str, value: Any) -> None:
        """Keep a value for `shared`."""
        self._shared[key] = value

    def drop(self, *keys: str) -> None:
        """Free what `shared` keeps under ``keys``; the next call makes it again."""
        for key in keys:
            self._shared.pop(key, None)
        trim_heap()

    def backward(self, value: Tensor, direction: Tensor | None = None) -> None:
        """Backpropagate; raises SubjectError where the graph refuses."""
        try:
            torch.autograd.backward(value, direction)
        except RuntimeError as error:
            raise SubjectError(f"{self.who}: backward raised {type(error).__name__}: {first_line(error)}") from error

    def close(self) -> None:
        """Let go of all models."""
        self._shared.clear()
        self.__dict__.pop("size_keyword", None)
        gc.collect()
