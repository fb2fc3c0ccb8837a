"""Parametrises tests over subjects, selects and skips."""

from __future__ import annotations

import pytest

from harness.checks.registry import BREADTH, check_names
from harness.errors import StoreError
from harness.plugin.report_rows import params_of, subject_of
from harness.plugin.request import Request
from harness.plugin.run import RUN
from harness.subjects.loading import family_of, known_names

OPEN = "goes by the subject's own list: run it as `pytest suites/zoo --subject timm.models --arch 'resnet*'`"
LARGE = "large: only facts and shapes by default; name it with --arch to have every check"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take ``subject`` run for every subject of their suite; those that also take ``check``, per check."""
    if "subject" not in metafunc.fixturenames:
        return
    request = metafunc.config.stash[RUN].request
    if "setting" in metafunc.fixturenames:
        metafunc.parametrize("setting", list(request.measurement.settings))
    family = family_of(metafunc.definition.path.parent.name)
    members = metafunc.definition.get_closest_marker("members")
    subjects = request.subjects(family, members.args if members is not None else ())
    if family.listing is not None and not subjects:
        names = [n for n in ("subject", "check") if n in metafunc.fixturenames]
        metafunc.parametrize(names, [pytest.param(*[None] * len(names), id="any", marks=pytest.mark.skip(reason=OPEN))])
        return
    if "check" not in metafunc.fixturenames:
        metafunc.parametrize("subject", subjects, ids=[s.id for s in subjects], indirect=True)
        return
    cases = []
    for subject in subjects:
        deep = request.in_depth(subject, subjects)
        for name in check_names(family, subject.architecture):
            marks = [] if deep or name in BREADTH else [pytest.mark.skip(reason=LARGE)]
            cases.append(pytest.param(subject, name, id=f"{subject.id}-{name}", marks=marks))
    metafunc.parametrize(("subject", "check"), cases, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what can't or shouldn't run here, with the reason."""
    run = config.stash[RUN]
    request = run.request
    gpu = pytest.mark.skip(reason="needs a CUDA device, and --device is " + request.device)
    slow = pytest.mark.skip(reason="a benchmark: run with --benchmark")
    warned = pytest.mark.filterwarnings("default")  # a subject or a library that warns may still be right
    for item in items:
        if {"subject", "published"} & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("speed"):
            item.add_marker(warned)
        if item.get_closest_marker("gpu") and not request.device.startswith("cuda"):
            item.add_marker(gpu)
        if item.get_closest_marker("speed") and not config.getoption("--benchmark"):
            item.add_marker(slow)
        elif item.get_closest_marker("speed") and request.measurement.isolate:
            item.add_marker(pytest.mark.timeout(0))  # each of its processes has the limit
    asked = request.patterns or request.specs
    if asked:
        _deselect_own(config, request, items)
    if run.done:  # what the run to resume has a row of is not done again
        _deselect(config, items, [i for i in items if i.nodeid in run.done])
    suites = {i.path.parent.name for i in items}
    known = [f for f in request.families if f.name in suites]
    if asked and known and not any(request.subjects(f) for f in known):
        what = f"--arch {','.join(request.patterns)}" if request.patterns else ""
        given = " ".join(f"--subject {s}" for s in request.specs)
        names = known_names(known)
        raise pytest.UsageError(f"{' '.join(filter(None, (given, what)))}: nothing to judge here; known: {names}")


def _deselect_own(config: pytest.Config, request: Request, items: list[pytest.Item]) -> None:
    """Tests about the suites' own code are not about the subject or architecture that was asked for."""
    folders = {("suites", f.name) for f in request.families}
    own = [i for i in items if i.path.parent.parts[-2:] in folders and "subject" not in params_of(i)]
    _deselect(config, items, own)


def _deselect(config: pytest.Config, items: list[pytest.Item], dropped: list[pytest.Item]) -> None:
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [i for i in items if i not in set(dropped)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the run's folder once it is clear that something will be recorded."""
    run = session.config.stash[RUN]
    resumed = run.request.measurement.resume
    if run.outbox is not None:  # the controller opens it
        return
    if resumed and not any(subject_of(i) for i in session.items):
        pytest.exit(f"--resume {resumed}: nothing is missing", returncode=0)
    if session.config.option.collectonly or not any(_records(i) for i in session.items):
        return
    try:
        run.open_store()
    except StoreError as error:
        raise pytest.UsageError(str(error)) from None


def _records(item: pytest.Item) -> bool:
    """Whether it is a subject's, or a benchmark without one that will be run and keeps rows through `session`."""
    names = getattr(item, "fixturenames", ())
    timed = item.get_closest_marker("speed") is not None and bool(item.config.getoption("--benchmark"))
    return subject_of(item) is not None or (timed and "session" in names)
