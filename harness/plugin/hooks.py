"""Options, configuration and the end of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.drawn_examples import register_profiles, use_profile
from harness.errors import RequestError
from harness.plugin import xdist
from harness.plugin.options import MeasurementOptions, add_measurement_options, add_options
from harness.plugin.run import SESSION, Session
from harness.process.memory_reuse import keep_freed_memory


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
        xdist.begin(config, session)
        session.validate()
    except RequestError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Close the store: the run is complete."""
    session.config.stash[SESSION].close_store()
