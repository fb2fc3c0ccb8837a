"""The tree keeps its rules, which `harness.tests.layout_rules` states.

``layout_exceptions.json`` has what still breaks them: nothing may be added, and what is mended is taken out. It is
recorded by ``RECORD_PINS=1 pytest harness/tests/test_layout.py``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import run

import pytest

from harness.tests.layout import Tree, circles
from harness.tests.layout_rules import FLOORS, RULES, WITHOUT, breaches, under

ROOT = Path(__file__).parents[2]
EXCEPTIONS = Path(__file__).with_name("layout_exceptions.json")


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES)
def test_the_tree(rule: str, tree: Tree) -> None:
    known = json.loads(EXCEPTIONS.read_text()) if EXCEPTIONS.is_file() else {}
    found = breaches(rule, tree)
    if os.environ.get("RECORD_PINS"):
        known = {name: lines for name, lines in {**known, rule: found}.items() if lines}
        EXCEPTIONS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    new, mended = sorted(set(found) - set(known.get(rule, ()))), sorted(set(known.get(rule, ())) - set(found))
    assert not new, "\n".join(new)
    assert not mended, f"no longer needed in {EXCEPTIONS.name}:\n" + "\n".join(mended)


def test_light_imports_are_light(tree: Tree) -> None:
    """As `light_imports`, seen by Python itself."""
    heavy = {line.partition(" ")[0] for line in breaches("light_imports", tree)}
    prefixes = WITHOUT["torch torchvision timm"]
    modules = [
        source.module
        for source in tree.sources
        if under(source, prefixes) and not source.is_test and source.path not in heavy
    ]
    assert modules
    code = f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def made(root: Path, files: Mapping[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root)


LONG = "x = 1\n" * 30
"""Long enough for a file of its own."""


@pytest.mark.parametrize(
    ("rule", "files", "expected"),
    [
        pytest.param(
            "floors",
            {"harness/statistics/ratios.py": "from harness.records import schema", "harness/records/schema.py": ""},
            "harness/statistics/ratios.py imports harness/records/schema.py: "
            "harness/statistics (floor 0) may import only harness/errors",
            id="a room that may import only some",
        ),
        pytest.param(
            "floors",
            {"harness/records/a.py": "def f():\n    import harness.bench.b", "harness/bench/b.py": ""},
            "harness/records/a.py imports harness/bench/b.py: from floor 1 to harness/bench (floor 3)",
            id="upward, inside a function",
        ),
        pytest.param(
            "floors",
            {"harness/checks/a.py": "from ..measure.b import c", "harness/measure/b.py": ""},
            "harness/checks/a.py imports harness/measure/b.py: from floor 4 to harness/measure (floor 4)",
            id="sideways, relative",
        ),
        pytest.param(
            "floors",
            {"reference/a.py": "from harness.errors import E", "harness/errors.py": ""},
            "reference/a.py imports harness/errors.py: reference imports nothing of this project",
            id="reference",
        ),
        pytest.param("floors", {"harness/misc.py": ""}, "harness/misc.py: in no room of the table", id="no room"),
        pytest.param(
            "names_no_suite",
            {"harness/bench/a.py": "from suites.vit import model", "suites/vit/model.py": ""},
            "harness/bench/a.py imports suites/vit/model.py: harness names no suite",
            id="harness and a suite",
        ),
        pytest.param(
            "names_no_suite",
            {"harness/plugin/terminal.py": "import reports.pages.p", "reports/pages/p.py": ""},
            "harness/plugin/terminal.py imports reports/pages/p.py: "
            "only harness/plugin/terminal.py starts reports, inside a function",
            id="reports, at once",
        ),
        pytest.param(
            "suites",
            {"suites/vit/model.py": "from suites.vit.facts import F", "suites/vit/facts.py": ""},
            "suites/vit/model.py imports suites/vit/facts.py: "
            "what users copy imports nothing of this project but models",
            id="a model",
        ),
        pytest.param(
            "suites",
            {"suites/transfer/trainer.py": "from harness.checks import shapes", "harness/checks/shapes.py": ""},
            "suites/transfer/trainer.py imports harness/checks/shapes.py: "
            "what users run imports neither checks nor mutants",
            id="a command",
        ),
        pytest.param(
            "suites",
            {"suites/a/x.py": "from suites.b.train import t", "suites/b/train.py": ""},
            "suites/a/x.py imports suites/b/train.py: of another suite only model, facts and base_models",
            id="another suite",
        ),
        pytest.param(
            "inside_reports",
            {"reports/frames/run.py": "import reports.sections.s", "reports/sections/s.py": ""},
            "reports/frames/run.py imports reports/sections/s.py: sections is not below frames",
            id="inside reports",
        ),
        pytest.param(
            "inside_reports",
            {"reports/pages/p.py": "from reports.frames import load", "reports/frames/__init__.py": ""},
            "reports/pages/p.py imports reports/frames/__init__.py: the face is for users",
            id="the face of the frames",
        ),
        pytest.param(
            "no_circles",
            {
                "suites/a/x.py": "import suites.a.y",
                "suites/a/y.py": "import suites.a.z",
                "suites/a/z.py": "from . import x",
            },
            "circle of files: suites/a/x.py, suites/a/y.py, suites/a/z.py",
            id="files",
        ),
        pytest.param(
            "no_circles",
            {
                "suites/a/x.py": "import suites.b.x",
                "suites/b/x.py": "",
                "suites/b/y.py": "def f():\n  import suites.a.x",
            },
            "circle of folders: suites/a, suites/b",
            id="folders",
        ),
        pytest.param("sizes", {"harness/a.py": "x = 1\n" * 351}, "harness/a.py: more than 350 lines", id="long"),
        pytest.param(
            "sizes",
            {"harness/a.py": "x = 1\n" * 24},
            "harness/a.py: fewer than 25 lines, so part of another file",
            id="short",
        ),
        pytest.param(
            "sizes", {f"harness/f/a{n}.py": LONG for n in range(16)}, "harness/f: more than 15 files", id="many"
        ),
        pytest.param(
            "faces", {"harness/bench/__init__.py": ""}, "harness/bench/__init__.py: has no docstring", id="bare"
        ),
        pytest.param(
            "faces",
            {"harness/bench/__init__.py": '"""Bench."""\nimport os'},
            "harness/bench/__init__.py: holds more than a docstring",
            id="no face",
        ),
        pytest.param(
            "faces",
            {"suites/vit/checks/__init__.py": '"""Face."""\nfrom os import sep\nx = sep + "a"'},
            "suites/vit/checks/__init__.py: a face holds imports and lists of names alone",
            id="a face with code",
        ),
        pytest.param(
            "private_names",
            {"harness/a.py": "from harness.b import _c", "harness/b.py": ""},
            "harness/a.py imports harness.b._c: _c is private there",
            id="private",
        ),
        pytest.param(
            "light_imports",
            {
                "harness/records/schema.py": "from harness.process.hardware import cpu",
                "harness/process/__init__.py": "import torch",
                "harness/process/hardware.py": "",
            },
            "harness/records/schema.py imports harness/process/__init__.py -> torch",
            id="torch through a package",
        ),
        pytest.param(
            "mirrored_tests",
            {"harness/tests/bench/test_a.py": "", "harness/a.py": ""},
            "harness/tests/bench/test_a.py: there is no file of that name in harness/bench",
            id="mirror",
        ),
    ],
)
def test_a_breach_is_found(rule: str, files: Mapping[str, str], expected: str, tmp_path: Path) -> None:
    assert expected in breaches(rule, made(tmp_path, files))


def test_what_keeps_the_rules(tmp_path: Path) -> None:
    files = {
        "harness/__init__.py": '"""Docstring."""',
        "harness/errors.py": LONG,
        "harness/plugin/__init__.py": '"""Face."""\npytest_plugins = ["harness.plugin.terminal"]',
        "harness/plugin/terminal.py": f"from harness.errors import E\n{LONG}def f():\n    import reports.pages.page\n",
        "harness/records/schema.py": f"if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n{LONG}",
        "reports/pages/page.py": f"from reports.frames.run import Run\n{LONG}",
        "reports/frames/run.py": LONG,
        "reports/tests/test_run.py": "",
        "suites/vit/model.py": LONG,
        "suites/vit/checks/__init__.py": '"""Face."""\nfrom suites.vit.checks.tokens import check_tokens\n',
        "suites/vit/checks/tokens.py": f"from harness.errors import E\nimport suites.resnet.model\n{LONG}",
        "suites/vit/tests/test_vit_model.py": "from harness.plugin import terminal",
        "suites/resnet/model.py": LONG,
        "harness/tests/records/test_schema.py": "from harness.records.schema import _private",
    }
    found = {rule: breaches(rule, made(tmp_path, files)) for rule in RULES}
    assert found.pop("private_names") == [
        "harness/tests/records/test_schema.py imports harness.records.schema._private: _private is private there"
    ]
    assert not any(found.values()), found


def test_circles_of_a_graph() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": [], "e": ["a"]}) == [["b", "c"]]


def test_every_room_is_there_in_the_end(tree: Tree) -> None:
    """A room of the table that no file is in is a slip of the pen, once the tree has its shape."""
    known = json.loads(EXCEPTIONS.read_text()) if EXCEPTIONS.is_file() else {}
    empty = [r for r in FLOORS if r != "tests" and not any(s.path.startswith(r) for s in tree.sources)]
    assert known or not empty, f"no file in {', '.join(empty)}"
