"""Options, configuration and the end of a session."""

from __future__ import annotations

import pytest

from harness.bench.drawn_examples import register_profiles, use_profile
from harness.errors import RequestError
from harness.plugin import xdist
from harness.plugin.options import add_measurement_options, add_options
from harness.plugin.request import Request
from harness.plugin.run import RUN, Run
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
    run = config.stash[RUN] = Run(request=Request.of(config))
    if not config.getoption("--benchmark"):
        keep_freed_memory()
    try:
        xdist.begin(config, run)
        run.request = run.request.validated()
        run.resume()
    except RequestError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Close the store: the run is complete."""
    session.config.stash[RUN].close_store()
