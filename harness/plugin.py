"""pytest hooks and options. Everything here delegates; see `harness.session` for what is kept."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import workers
from harness.bench.drawn_examples import register_profiles, use_profile
from harness.checks.registry import BREADTH, check_names, find_check
from harness.errors import RequestError, StoreError, first_line
from harness.options import MeasurementOptions, add_measurement_options, add_options
from harness.outcomes import params_of, row_of, subject_of
from harness.process.memory_reuse import keep_freed_memory, with_room
from harness.processes import measurer
from harness.session import Session
from harness.subjects.loading import family_of, known_names
from harness.subjects.subject import Subject

if TYPE_CHECKING:
    from harness.bench.bench import Bench

SESSION = pytest.StashKey[Session]()
TASK = "harness.sweep.leash"
"""The plugin that processes of a sweep are started with."""
OPEN = "goes by the subject's own list: run it as `pytest suites/zoo --subject timm.models --arch 'resnet*'`"
LARGE = "large: only facts and shapes by default; name it with --arch to have every check"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options, under two headings of ``pytest --help``."""
    add_options(parser)
    add_measurement_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options; a request that makes no sense ends here with exit code 4 and one line."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "speed: a benchmark, run with --benchmark only")
    config.addinivalue_line("markers", "members(*names): the architectures a test is run for where nobody chose any")
    register_profiles()
    use_profile(config.getoption("--hypothesis-profile", None))
    session = Session(
        specs=tuple(config.getoption("--subject")),
        patterns=tuple(p.strip() for p in config.getoption("--arch").split(",") if p.strip()),
        device=config.getoption("--device"),
        results=Path(config.getoption("--results")),
        budget=config.getoption("--budget"),
        seed=config.getoption("--seed"),
        compile_backend=config.getoption("--compile-backend"),
        pretrained=config.getoption("--weights") == "imagenet",
        measurement=MeasurementOptions.of(config),
        paths=tuple(str(a) for a in config.args),
    )
    config.stash[SESSION] = session
    if not config.getoption("--benchmark"):
        keep_freed_memory()
    if config.option.collectonly and not session.specs and session.device == "auto":
        session.device = "cpu"  # listing tests needs no torch
    try:
        workers.begin(config, session)
        session.validate()
    except RequestError as error:
        raise pytest.UsageError(str(error)) from None


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


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    """This invocation's options, subjects and store."""
    return request.config.stash[SESSION]


@pytest.fixture
def subject(request: pytest.FixtureRequest, session: Session) -> Bench:
    """The subject on its bench; models are built once and shared by its tests."""
    return session.bench(request.param)


@pytest.fixture
def published(request: pytest.FixtureRequest, session: Session) -> Bench:
    """A suite's published listing on its bench."""
    return session.bench(request.param)


@pytest.fixture
def check(request: pytest.FixtureRequest) -> str:
    """Name of the check to run, see `judge`."""
    return str(request.param)


@pytest.fixture
def measure(request: pytest.FixtureRequest, session: Session, subject: Bench) -> Callable[..., None]:
    """Measure the subject, interleaved with its references, through `benchmark`.

    Called with the test's ``setting`` (one for each combination of --modes, --batch-size, --dtype and so on), or with a
    mode, ``infer`` or ``train``, and perhaps a ``batch_size``; ``share`` is the part of ``--budget`` for the rounds.
    """
    subject.close()  # conformance's models take memory that the measurement should not see
    if session.measurement.isolate:
        return measurer(request, session, subject.subject)
    benchmark = request.getfixturevalue("benchmark")
    from harness.measure.rounds import BudgetError

    measuring = session.measuring(request.config.pluginmanager.get_plugin("terminalreporter"))

    def run(what: str, *, batch_size: int | None = None, share: float = 1.0) -> None:
        __tracebackhide__ = True
        try:
            measuring.measure(
                benchmark,
                subject,
                session.setting(what, batch_size),
                test_id=request.node.nodeid,
                flag=session.flag(subject.subject),
                budget=share * session.budget,
            )
        except BudgetError as error:  # a slow or busy machine is no fault of the subject
            pytest.skip(f"not measured: {error}")
        except AssertionError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    return run


def judge(bench: Bench, check: str) -> None:
    """Run a check by name; a broken promise fails the test with its message alone, without a traceback."""
    __tracebackhide__ = True
    bench.notes.clear()
    try:
        with_room(find_check(check, bench.family), bench)
    except AssertionError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    except (Exception, SystemExit) as error:
        place = _place_in(bench.subject, error)
        if not place:  # a fault of the check: its traceback is wanted
            raise
        raise pytest.fail.Exception(
            f"{bench.who}: {check} was not carried out: {place} raised {type(error).__name__}, {first_line(error)}",
            pytrace=False,
        ) from None


def _place_in(subject: Subject, error: BaseException) -> str:
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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A subject that hung once is not called again."""
    subject = subject_of(item)
    if subject is not None and subject.id in item.config.stash[SESSION].hung:
        pytest.skip(f"not run: {subject.id} hung in {item.config.stash[SESSION].hung[subject.id]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the outcome of every test of a subject."""
    report = yield
    session = item.config.stash[SESSION]
    row = row_of(item, call, report, session)
    if row is not None:
        session.record(row)
    if session.outbox:
        report.rows = workers.packed(session.outbox)  # type: ignore[attr-defined]
        session.outbox.clear()
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Close the store: the run is complete."""
    session.config.stash[SESSION].close_store()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line per subject, where the records are, and the report's path after a benchmark."""
    session = config.stash[SESSION]
    if session.store is None or config.pluginmanager.hasplugin(TASK):  # a sweep has one summary and report for all
        return
    from harness.summary import lines

    terminalreporter.section("conformance")
    for line in lines(session.records):
        terminalreporter.line(line)
    if session.store_error:
        terminalreporter.line(f"records: {session.store_error} ({len(session.store.unwritten)} rows not written)")
    terminalreporter.line(f"records: {session.store.folder / 'records.jsonl'}")
    if not config.getoption("--benchmark"):
        terminalreporter.line(f"report:  python -m reports {session.store.folder}")
        return
    try:
        from reports.frames import load
        from reports.parquet import write_parquet

        terminalreporter.line(f"tables:  {', '.join(str(path) for path in write_parquet(load(session.store.folder)))}")
    except Exception as error:  # the records are what counts
        terminalreporter.line(f"tables:  not written: {first_line(error)}")
    try:
        from reports.page import write

        terminalreporter.line(f"report:  {write(session.store.folder)}")
    except Exception as error:  # the verdict stands whether or not the page could be written
        terminalreporter.line(f"report:  not written: {type(error).__name__}: {first_line(error)}")
