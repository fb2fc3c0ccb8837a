"""From ``--subject`` and ``--arch`` to the implementations under test."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from harness.errors import RequestError, first_line
from harness.subjects.facts import Family
from harness.subjects.subject import Subject, label_of


def families() -> tuple[Family, ...]:
    """Every suite's family that has architectures. Imports no model and no library."""
    suites = importlib.util.find_spec("suites")
    found = []
    for folder in sorted(Path(p) for p in (suites and suites.submodule_search_locations) or ()):
        for suite in sorted(folder.iterdir()):
            if (suite / "architectures.py").is_file():
                found.append(family_of(suite.name))
    return tuple(found)


def family_of(suite: str) -> Family:
    """The family of ``suites/<suite>``."""
    family = importlib.import_module(f"suites.{suite}.architectures").FAMILY
    assert isinstance(family, Family)
    return family


def import_subject(spec: str) -> ModuleType:
    """Import a file or a module given to ``--subject``. Raises RequestError with one line."""
    from harness.subjects.import_guard import watched  # brings torch, which listing our own tests can do without

    if spec.endswith(".py") or "/" in spec:
        path = Path(spec).resolve()
        if not path.is_file():
            what = "is a folder; give a file in it" if path.is_dir() else "there is no such file"
            raise RequestError(f"--subject {spec}: {what}")
        name = path.stem
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None) == str(path):
            return known
        if known is not None or _importable(name, path):  # another module has that name: keep both apart
            name = f"subject_{abs(hash(str(path)))}_{name}"
            if name in sys.modules:
                return sys.modules[name]
        loader = importlib.util.spec_from_file_location(name, path)
        if loader is None or loader.loader is None:
            raise RequestError(f"--subject {spec}: is no Python file; give a file as path/to/file.py")
        module = importlib.util.module_from_spec(loader)
        sys.modules[name] = module
        if str(path.parent) not in sys.path:  # a subject file may import its neighbours
            sys.path.append(str(path.parent))  # last: a neighbour called as a library must not stand in its place
        try:
            with _warnings_shown(), watched(spec):
                loader.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            if isinstance(error, KeyboardInterrupt | GeneratorExit):
                raise
            raise RequestError(
                f"--subject {spec}: importing it raised {type(error).__name__}: {first_line(error)}"
            ) from error
        return module
    try:
        with _warnings_shown(), watched(spec):
            return importlib.import_module(spec)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise
        raise RequestError(
            f"--subject {spec}: importing it raised {type(error).__name__}: {first_line(error)} "
            "(give a file as path/to/file.py, a module by its import name)"
        ) from error


def _importable(name: str, path: Path) -> bool:
    """Whether ``import name`` would give something else than the file at ``path``."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # a name with dots, or a module without a specification
        return "." in name
    return found is not None and found.origin != str(path)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Warnings are no errors here, whatever the project's own tests make of them: a subject that warns may be right."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def check_patterns(patterns: Sequence[str], known: Sequence[Family], specs: Sequence[str] = ()) -> None:
    """Raise RequestError for a name or glob in ``--arch`` that selects nothing anywhere.

    ``specs`` are the subjects whose own lists count too, in the families that go by them.
    """
    for pattern in patterns:
        if any(a.matches(pattern) for f in known for a in f.architectures):
            continue
        if not any(a.matches(pattern) for f in known if f.listing for spec in specs for a in f.of(spec)):
            raise RequestError(f"--arch {pattern}: no such architecture; known: {known_names(known)}")


def known_names(known: Sequence[Family]) -> str:
    """The published architectures by family, for messages."""
    return "; ".join(
        f"{f.name}: {', '.join(a.name for a in f.architectures) or 'what the subject itself lists'}" for f in known
    )


def own_subjects(family: Family, patterns: Sequence[str], *, everything: bool = False) -> list[Subject]:
    """The suite's own models: the default members, or all (``everything``), or those that ``--arch`` selects."""
    return [
        Subject(
            label="ours",
            spec=family.model,
            architecture=architecture,
            family=family,
            factory_name=architecture.name,
            module=lambda: importlib.import_module(family.model),
        )
        for architecture in family.architectures
        if architecture.own
        and (any(architecture.matches(p) for p in patterns) if patterns else everything or architecture.default)
    ]


def given_subjects(spec: str, family: Family, patterns: Sequence[str], label: str | None = None) -> list[Subject]:
    """The architectures of ``family`` that a ``--subject`` has under their names or aliases.

    One that it has under several, as different callables, is a subject under each: its user may call any of them.
    ``label`` stands in for a file's stem where two files share it.
    """
    module = import_subject(spec)
    found = []
    for architecture in family.of(spec):
        if patterns and not any(architecture.matches(p) for p in patterns):
            continue
        names: dict[int, str] = {}
        for name in architecture.names:
            if callable(factory := getattr(module, name, None)):
                names.setdefault(id(factory), name)
        for n, name in enumerate(names.values()):
            found.append(
                Subject(
                    label=(label or label_of(spec)) + (f".{name}" if n else ""),
                    spec=spec,
                    architecture=architecture,
                    family=family,
                    factory_name=name,
                    module=lambda: module,
                )
            )
    return found
