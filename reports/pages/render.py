"""From a template to one HTML file that needs nothing else: style, scripts and drawings are inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version as installed
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import RunError
from reports.drawing.vega import Chart


def fill(template: str, drawn: Sequence[Chart], /, **facts: Any) -> str:
    """The page of a template with ``facts``, which it escapes, the charts ``drawn`` on it and all its scripts need."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: _resource(f"templates/{name}")),
    )
    return environment.get_template(template).render(
        specs={chart.name: chart.spec for chart in drawn},
        style=_resource("page.css"),
        script=_resource("page.js"),
        tables_script=_inline(_resource("vendor/dataTables.min.js")),
        vega=_vega() if drawn else "",
        **facts,
    )


def save(path: Path, page: str) -> Path:
    """Write the page, whole or not at all. Raises RunError where it can't be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(page.encode("utf-8"))
        partial.replace(path)  # a page that is being read is never half there
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path}: {error.strerror or error}") from error
    return path


def _resource(name: str) -> str:
    return files("reports.pages").joinpath(name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    return script.replace("</script", "<\\/script")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import altair
    import vl_convert

    version = altair.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]  # v6.1.0 -> 6.1
    whole = "window.vegaEmbed = vegaEmbed;"
    kept = _cache() / f"vega-{installed('vl-convert-python')}-{version}.js"
    with suppress(OSError, UnicodeError):
        return kept.read_text(encoding="utf-8")
    bundle: str = _inline(vl_convert.javascript_bundle(whole, vl_version=version))
    with suppress(OSError, RunError):  # without a cache the next page takes a few seconds longer
        kept.parent.mkdir(parents=True, exist_ok=True)
        save(kept, bundle)
    return bundle


def _cache() -> Path:
    """The user's folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "vision-conformance"
