"""Parametrises tests over subjects, selects and skips."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from harness.checks.registry import BREADTH, check_names
from harness.errors import StoreError
from harness.plugin.report_rows import params_of, subject_of
from harness.plugin.run import SESSION, Session
from harness.subjects.loading import family_of, known_names
from harness.subjects.subject import Subject

OPEN = "goes by the subject's own list: run it as `pytest suites/zoo --subject timm.models --arch 'resnet*'`"
LARGE = "large: only facts and shapes by default; name it with --arch to have every check"


def _family(metafunc: pytest.Metafunc) -> Any:
    return family_of(Path(str(metafunc.definition.path)).parent.name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take ``subject`` run for every subject of their suite; those that also take ``check``, per check."""
    if "subject" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    if "setting" in metafunc.fixturenames:
        metafunc.parametrize("setting", list(session.measurement.settings))
    family = _family(metafunc)
    members = metafunc.definition.get_closest_marker("members")
    subjects = session.subjects(family, members.args if members is not None else ())
    if family.listing is not None and not subjects:
        names = [n for n in ("subject", "check") if n in metafunc.fixturenames]
        metafunc.parametrize(names, [pytest.param(*[None] * len(names), id="any", marks=pytest.mark.skip(reason=OPEN))])
        return
    if "check" not in metafunc.fixturenames:
        metafunc.parametrize("subject", subjects, ids=[s.id for s in subjects], indirect=True)
        return
    cases = []
    for subject in subjects:
        deep = session.in_depth(subject, subjects)
        for name in check_names(family, subject.architecture):
            marks = [] if deep or name in BREADTH else [pytest.mark.skip(reason=LARGE)]
            cases.append(pytest.param(subject, name, id=f"{subject.id}-{name}", marks=marks))
    metafunc.parametrize(("subject", "check"), cases, indirect=True)


def place_in(subject: Subject, error: BaseException) -> str:
    """File and line where the subject's own code raised it; empty where other code did."""
    file = getattr(subject.module(), "__file__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what can't or shouldn't run here, with the reason."""
    session = config.stash[SESSION]
    gpu = pytest.mark.skip(reason="needs a CUDA device, and --device is " + session.device)
    slow = pytest.mark.skip(reason="a benchmark: run with --benchmark")
    warned = pytest.mark.filterwarnings("default")  # a subject or a library that warns may still be right
    for item in items:
        if {"subject", "published"} & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("speed"):
            item.add_marker(warned)
        if item.get_closest_marker("gpu") and not session.device.startswith("cuda"):
            item.add_marker(gpu)
        if item.get_closest_marker("speed") and not config.getoption("--benchmark"):
            item.add_marker(slow)
        elif item.get_closest_marker("speed") and session.measurement.isolate:
            item.add_marker(pytest.mark.timeout(0))  # each of its processes has the limit
    if session.patterns or session.specs:
        _deselect_own(config, session, items)
    if session.done:
        _deselect_done(config, session, items)
    asked = session.patterns or session.specs
    suites = {Path(str(i.path)).parent.name for i in items}
    known = [f for f in session.families if f.name in suites]
    if asked and known and not any(session.subjects(f) for f in known):
        what = f"--arch {','.join(session.patterns)}" if session.patterns else ""
        given = " ".join(f"--subject {s}" for s in session.specs)
        names = known_names(known)
        raise pytest.UsageError(f"{' '.join(filter(None, (given, what)))}: nothing to judge here; known: {names}")


def _deselect_done(config: pytest.Config, session: Session, items: list[pytest.Item]) -> None:
    """What the run to resume has a row of is not done again."""
    done = [i for i in items if i.nodeid in session.done]
    config.hook.pytest_deselected(items=done)
    items[:] = [i for i in items if i.nodeid not in session.done]


def _deselect_own(config: pytest.Config, session: Session, items: list[pytest.Item]) -> None:
    """Tests about the suites' own code are not about the subject or architecture that was asked for."""
    suites = {f.name for f in session.families}

    def foreign(item: pytest.Item) -> bool:
        path = Path(str(item.path))
        return path.parent.name in suites and path.parent.parent.name == "suites" and "subject" not in params_of(item)

    dropped = [i for i in items if foreign(i)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [i for i in items if not foreign(i)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the run's folder once it is clear that something will be recorded."""
    kept = session.config.stash[SESSION]
    if kept.measurement.resume and kept.outbox is None and not any(subject_of(i) for i in session.items):
        pytest.exit(f"--resume {kept.measurement.resume}: nothing is missing", returncode=0)
    if session.config.option.collectonly or kept.outbox is not None or not any(_records(i) for i in session.items):
        return
    try:
        kept.open_store()
    except StoreError as error:
        raise pytest.UsageError(str(error)) from None


def _records(item: pytest.Item) -> bool:
    """Whether it is a subject's, or a benchmark without one that will be run and keeps rows through `session`."""
    names = getattr(item, "fixturenames", ())
    timed = item.get_closest_marker("speed") is not None and bool(item.config.getoption("--benchmark"))
    return subject_of(item) is not None or (timed and "session" in names)
