"""pytest hooks and options. Everything here delegates; see `harness.session` for what is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.checks import BREADTH, check_names, find_check
from harness.records import SPEED, CheckRecord, Mode, Outcome
from harness.session import Session
from harness.store import StoreError
from harness.strategies import PROFILE, register_profiles
from harness.subjects import RequestError, Subject, family_of, first_line

if TYPE_CHECKING:
    from harness.workbench import Workbench

SESSION = pytest.StashKey[Session]()
LARGE = "large: only facts and shapes by default; name it with --arch to have every check"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options, under one heading of ``pytest --help``."""
    group = parser.getgroup("conformance", "conformance and benchmarks of vision architectures")
    group.addoption(
        "--subject",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="implementation to judge: a file or importable module whose callables are named after architectures "
        "(resnet50(num_classes=1000) -> nn.Module); repeatable; default: the suites' own models",
    )
    group.addoption(
        "--arch", default="", metavar="NAMES", help="architectures, comma-separated names or globs (efficientnet_b*)"
    )
    group.addoption(
        "--device", default="auto", metavar="DEVICE", help="where to measure: auto, cpu, cuda or cuda:N (default auto)"
    )
    group.addoption(
        "--results", default="results", metavar="DIR", help="folder that keeps one folder per run (default results)"
    )
    group.addoption("--benchmark", action="store_true", help="also measure speed and memory, and write the report")
    group.addoption(
        "--budget",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="time for the rounds of each benchmark (default 15)",
    )
    group.addoption(
        "--seed", type=int, default=0, metavar="N", help="seed of weights and images in the checks (default 0)"
    )
    group.addoption(
        "--compile-backend",
        default="aot_eager",
        metavar="NAME",
        help="torch.compile backend of the compile check: aot_eager (default, no code generation) or inductor",
    )
    group.addoption(
        "--mutants",
        choices=("third", "all"),
        default="third",
        help="how many of the faulty models the harness's own tests try to pass off as correct (default third)",
    )
    group.addoption(
        "--weights",
        choices=("random", "imagenet"),
        default="random",
        help="imagenet also compares with the libraries' pretrained weights, where they can be had (default random)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options; a request that makes no sense ends here with exit code 4 and one line."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "speed: a benchmark, run with --benchmark only")
    config.addinivalue_line("markers", "members(*names): the architectures a test is run for where nobody chose any")
    register_profiles()
    if config.getoption("--hypothesis-profile", None) is None:
        from hypothesis import settings

        settings.load_profile(PROFILE)
    session = Session(
        specs=tuple(config.getoption("--subject")),
        patterns=tuple(p.strip() for p in config.getoption("--arch").split(",") if p.strip()),
        device=config.getoption("--device"),
        results=Path(config.getoption("--results")),
        budget=config.getoption("--budget"),
        seed=config.getoption("--seed"),
        compile_backend=config.getoption("--compile-backend"),
        pretrained=config.getoption("--weights") == "imagenet",
    )
    config.stash[SESSION] = session
    if config.option.collectonly and not session.specs and session.device == "auto":
        session.device = "cpu"  # listing tests needs no torch
    try:
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
    family = _family(metafunc)
    members = metafunc.definition.get_closest_marker("members")
    subjects = session.subjects(family, members.args if members is not None else ())
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
def subject(request: pytest.FixtureRequest, session: Session) -> Workbench:
    """The subject on its bench; models are built once and shared by its tests."""
    return session.workbench(request.param)


@pytest.fixture
def published(request: pytest.FixtureRequest, session: Session) -> Workbench:
    """A suite's published listing on its bench."""
    return session.workbench(request.param)


@pytest.fixture
def check(request: pytest.FixtureRequest) -> str:
    """Name of the check to run, see `judge`."""
    return str(request.param)


@pytest.fixture
def measure(request: pytest.FixtureRequest, session: Session, subject: Workbench) -> Callable[..., None]:
    """Measure the subject in ``infer`` or ``train`` mode, interleaved with its references, through `benchmark`.

    ``batch_size`` is by default the device's, ``share`` the part of ``--budget`` that the rounds may take.
    """
    benchmark = request.getfixturevalue("benchmark")
    subject.close()  # conformance's models take memory that the measurement should not see
    from harness.measure.interleave import BudgetError

    measuring = session.measuring(request.config.pluginmanager.get_plugin("terminalreporter"))

    def run(mode: Mode, *, batch_size: int | None = None, share: float = 1.0) -> None:
        __tracebackhide__ = True
        flag = session.flag(subject.subject)
        try:
            measuring.measure(
                benchmark,
                subject,
                mode,
                test_id=request.node.nodeid,
                flag=flag,
                batch_size=batch_size,
                budget=share * session.budget,
            )
        except BudgetError as error:  # a slow or busy machine is no fault of the subject
            pytest.skip(f"not measured: {error}")
        except AssertionError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    return run


def judge(bench: Workbench, check: str) -> None:
    """Run a check by name; a broken promise fails the test with its message alone, without a traceback."""
    __tracebackhide__ = True
    bench.notes.clear()
    try:
        find_check(check, bench.family)(bench)
    except AssertionError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what can't or shouldn't run here, with the reason."""
    session = config.stash[SESSION]
    gpu = pytest.mark.skip(reason="needs a CUDA device, and --device is " + session.device)
    slow = pytest.mark.skip(reason="a benchmark: run with --benchmark")
    for item in items:
        if item.get_closest_marker("gpu") and not session.device.startswith("cuda"):
            item.add_marker(gpu)
        if item.get_closest_marker("speed") and not config.getoption("--benchmark"):
            item.add_marker(slow)
    if session.patterns or session.specs:
        _deselect_own(config, session, items)
    asked = session.patterns or session.specs
    suites = {Path(str(i.path)).parent.name for i in items}
    known = [f for f in session.families if f.name in suites]
    if asked and known and not any(session.subjects(f) for f in known):
        what = f"--arch {','.join(session.patterns)}" if session.patterns else ""
        given = " ".join(f"--subject {s}" for s in session.specs)
        names = "; ".join(f"{f.name}: {', '.join(a.name for a in f.architectures)}" for f in known)
        raise pytest.UsageError(f"{' '.join(filter(None, (given, what)))}: nothing to judge here; known: {names}")


def _deselect_own(config: pytest.Config, session: Session, items: list[pytest.Item]) -> None:
    """Tests about the suites' own code are not about the subject or architecture that was asked for."""
    suites = {f.name for f in session.families}

    def foreign(item: pytest.Item) -> bool:
        path = Path(str(item.path))
        return path.parent.name in suites and path.parent.parent.name == "suites" and "subject" not in _params(item)

    dropped = [i for i in items if foreign(i)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [i for i in items if not foreign(i)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the run's folder once it is clear that something will be recorded."""
    kept = session.config.stash[SESSION]
    if session.config.option.collectonly or not any(_subject_of(i) for i in session.items):
        return
    try:
        kept.open_store()
    except StoreError as error:
        raise pytest.UsageError(str(error)) from None


def _params(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def _subject_of(item: pytest.Item) -> Subject | None:
    params = _params(item)
    found = params.get("subject", params.get("published"))
    return found if isinstance(found, Subject) else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A subject that hung once is not called again."""
    subject = _subject_of(item)
    if subject is not None and subject.id in item.config.stash[SESSION].hung:
        pytest.skip(f"not run: {subject.id} hung in {item.config.stash[SESSION].hung[subject.id]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the outcome of every test of a subject."""
    report = yield
    subject = _subject_of(item)
    if subject is None or (report.when != "call" and report.passed) or report.when == "teardown":
        return report
    session = item.config.stash[SESSION]
    params = _params(item)
    name = params.get("check", params.get("name", getattr(item, "originalname", item.name)))
    if item.get_closest_marker("speed"):
        name = SPEED + str(params.get("mode", item.originalname.removeprefix("test_")))  # type: ignore[attr-defined]
    message = _message(report, call)
    if "Timeout" in message and "pytest-timeout" in message:  # outside a call of the subject's own
        message = f"{subject.who}: did not come back within --timeout: {message}"
    if "did not come back within --timeout" in message:
        session.hung[subject.id] = str(name)
    session.record(
        CheckRecord(
            run=session.run,
            suite=subject.family.name,
            architecture=subject.architecture.name,
            subject=subject.label,
            check=str(name),
            outcome=_outcome(report, call),
            message=message,
            reproduce=_reproduce(item, session),
            test=item.nodeid,
            seconds=report.duration,
            details=dict(session.workbench(subject).notes) if "check" in params or "name" in params else {},
        )
    )
    return report


def _outcome(report: pytest.TestReport, call: pytest.CallInfo[None]) -> Outcome:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "failed"
    if report.passed:
        return "passed"
    if report.skipped:
        return "skipped"
    broken = call.excinfo is not None and not call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
    return "error" if broken else "failed"


def _message(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    if call.excinfo is None:
        return first_line(Exception(report.longreprtext))
    value = call.excinfo.value
    text = str(value)
    return text if isinstance(value, AssertionError | pytest.fail.Exception) else f"{type(value).__name__}: {text}"


def _reproduce(item: pytest.Item, session: Session) -> str:
    options = [f"--subject {s}" for s in session.specs]
    if session.patterns:
        options.append(f"--arch '{','.join(session.patterns)}'")
    if session.seed:
        options.append(f"--seed {session.seed}")
    return " ".join([f"pytest '{item.nodeid}'", *options])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Close the store: the run is complete."""
    session.config.stash[SESSION].close_store()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line per subject, where the records are, and the report's path after a benchmark."""
    session = config.stash[SESSION]
    if session.store is None:
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
        from reports.page import write

        terminalreporter.line(f"report:  {write(session.store.folder)}")
    except Exception as error:  # the verdict stands whether or not the page could be written
        terminalreporter.line(f"report:  not written: {type(error).__name__}: {first_line(error)}")
