"""One architecture as one implementation builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.errors import SubjectError, first_line
from harness.subjects.facts import Architecture, Family

if TYPE_CHECKING:
    from torch import nn


CHANNEL_KEYWORDS = ("in_channels", "in_chans")
SIZE_KEYWORDS = ("image_size", "img_size")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One architecture as one implementation builds it. The module is imported when first needed."""

    label: str
    """``ours``, or the file's stem or module's name as given."""
    spec: str
    """What was given to ``--subject``, or the suite's own module."""
    architecture: Architecture
    family: Family
    factory_name: str
    module: Callable[[], ModuleType]

    @property
    def id(self) -> str:
        """Test id: the architecture, with the label in front where it is not ours."""
        return self.architecture.name if self.label == "ours" else f"{self.label}:{self.architecture.name}"

    @property
    def who(self) -> str:
        """How messages name it."""
        return f"{self.architecture.name} of {self.label}"

    @cached_property
    def factory(self) -> Callable[..., Any]:
        """The callable that builds it."""
        return getattr(self.module(), self.factory_name)  # type: ignore[no-any-return]

    def state_dict_map(self) -> Mapping[str, str] | None:
        """Reference name -> subject name, where the module gives ``<architecture>_state_dict_map()``."""
        for name in self.architecture.names:
            given = getattr(self.module(), f"{name}_state_dict_map", None)
            if callable(given):
                mapping = given()
                if not isinstance(mapping, Mapping):
                    raise SubjectError(f"{self.who}: {name}_state_dict_map() gave {type(mapping).__name__}, not a dict")
                return mapping
        return None

    def build(self, num_classes: int = 1000, **keywords: Any) -> nn.Module:
        """A new module on the default device. Raises SubjectError where the factory raises or gives no module."""
        from torch import nn

        try:
            model = self.factory(num_classes=num_classes, **keywords)
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{k}={v}" for k, v in {"num_classes": num_classes, **keywords}.items())
            raise SubjectError(
                f"{self.who}: {self.factory_name}({given}) raised {type(error).__name__}: {first_line(error)}"
            ) from error
        if not isinstance(model, nn.Module):
            raise SubjectError(
                f"{self.who}: {self.factory_name}() gave {type(model).__name__}; expected a torch.nn.Module"
            )
        return model

    def keyword(self, candidates: Sequence[str]) -> str | None:
        """Which of these keywords the factory names in its signature; None where it names none.

        A factory that takes ``**kwargs`` is asked by `harness.bench.bench`, which can see whether the keyword acts.
        """
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):
            return None
        return next((k for k in candidates if k in parameters), None)

    def takes_any_keyword(self) -> bool:
        """Whether the factory has ``**kwargs``."""
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):
            return False
        return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def label_of(spec: str) -> str:
    """How tests and reports name a ``--subject``: a file's stem, a module's import name."""
    return Path(spec).stem if spec.endswith(".py") or "/" in spec else spec
