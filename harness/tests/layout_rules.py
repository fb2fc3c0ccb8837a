"""Rules of the tree, each a function that gives one line for each breach."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from harness.tests.layout import Source, Tree, circles

FLOORS = {
    "harness/errors": 0,
    "harness/numerics": 0,
    "harness/statistics": 0,
    "harness/process": 0,
    "reference": 0,
    "harness/records": 1,
    "harness/subjects": 2,
    "harness/bench": 3,
    "harness/checks": 4,
    "harness/measure": 4,
    "harness/mutants": 5,
    "harness/explain": 5,
    "suites": 6,
    "reports": 7,
    "harness/plugin": 8,
    "harness/sweep": 9,
    "tests": 10,
}
"""A file imports from its own room or from a lower floor. A room is a folder, or a file beside them."""
ONLY: dict[str, tuple[str, ...]] = {
    "harness/errors": (),
    "harness/numerics": ("harness/errors",),
    "harness/statistics": ("harness/errors",),
    "harness/process": ("harness/errors",),
    "reports": ("harness/errors", "harness/records", "harness/statistics"),
}
"""Rooms that may import from these alone."""
STARTS_REPORTS = "harness/plugin/terminal.py"
"""It alone in harness imports reports, and only inside a function."""
REPORT_FLOORS = {"frames": 0, "drawing": 0, "comparison": 1, "export": 1, "sections": 2, "pages": 3, "__main__": 4}
WITHOUT = {
    "torch torchvision timm": (
        *("harness/errors", "harness/statistics", "harness/records", "harness/plugin"),
        *("harness/process/hardware", "harness/process/memory_reuse", "harness/process/runner", "harness/sweep"),
        *("harness/subjects/facts", "harness/subjects/subject", "harness/subjects/loading", "harness/checks/registry"),
        *("harness/bench/drawn_examples", "harness/measure/setting", "reports"),
    ),
    "pandas": ("harness/errors", "harness/statistics", "harness/records", "harness/plugin"),
}
"""Files and folders whose import must not import these libraries, directly or through others of the project."""
FACES = ("harness/plugin", "reference/alignment", "reports/frames", "suites/detector/model")
FACES_OF_SUITES = ("checks", "mutants")
MOST_FILES, MOST_LINES, FEWEST_LINES = 15, 350, 25
COMMON_NAMES = ("__init__", "architectures", "base_models", "published")
"""Files that are looked for under these names in every suite, or every folder, however short."""
ACROSS = (
    *("harness/tests/test_layout.py", "harness/tests/test_workflows.py", "harness/tests/pinned/"),
    *("harness/tests/third_party/", "harness/tests/checks/test_caller_habits.py"),
    *("harness/tests/bench/test_state_dict_map.py", "harness/tests/measure/test_pytest_benchmark.py"),
    *("reports/tests/test_commands.py", "reports/tests/test_readme.py"),
)
"""Tests of no single file."""


def room(source: Source) -> str | None:
    """Its room; None where the table has none for it."""
    if source.is_test:
        return "tests"
    parts = source.path.removesuffix(".py").split("/")
    name = "/".join(parts[:2]) if parts[0] == "harness" else parts[0]
    return name if name in FLOORS else None


def under(source: Source, prefixes: tuple[str, ...]) -> bool:
    """Whether one of these is the file or a folder above it."""
    name = source.path.removesuffix(".py")
    return any(name == prefix or name.startswith(prefix + "/") for prefix in prefixes)


def floors(tree: Tree) -> Iterator[str]:
    """Imports of a higher floor, of another room on the same floor, or of a room that this one must not know."""
    for source in tree.sources:
        own = room(source)
        if own is None:
            if source.path != "harness/__init__.py":
                yield f"{source.path}: in no room of the table"
            continue
        for target in tree.edges(source).values():
            other = room(target)
            if other is None or other == own or own == "tests":
                continue
            if own == "reference":
                yield f"{source.path} imports {target.path}: reference imports nothing of this project"
            elif own in ONLY and (other.startswith("harness/") or own != "reports") and other not in ONLY[own]:
                allowed = ", ".join(ONLY[own]) or "nothing"
                yield f"{source.path} imports {target.path}: {own} (floor {FLOORS[own]}) may import only {allowed}"
            elif FLOORS[other] >= FLOORS[own] and other not in ONLY.get(own, ()):
                upward = f"from floor {FLOORS[own]} to {other} (floor {FLOORS[other]})"
                yield f"{source.path} imports {target.path}: {upward}"


def names_no_suite(tree: Tree) -> Iterator[str]:
    """Imports of a suite, or of the pages, in harness."""
    for source in tree.sources:
        if not source.path.startswith("harness/") or source.is_test:
            continue
        for imported in source.imports:
            target = tree.target(imported)
            if target is None:
                continue
            if target.path.startswith("suites/"):
                yield f"{source.path} imports {target.path}: harness names no suite"
            if target.path.startswith("reports/") and not (source.path == STARTS_REPORTS and imported.lazy):
                yield f"{source.path} imports {target.path}: only {STARTS_REPORTS} starts reports, inside a function"


def _copied(source: Source) -> bool:
    """Whether users copy it: a model or a recipe, and what these consist of."""
    parts = source.path.split("/")
    return parts[0] == "suites" and (
        (len(parts) == 3 and source.stem in ("model", "recipe", "layer_groups"))
        or (len(parts) == 4 and parts[1:3] == ["detector", "model"])
    )


def suites(tree: Tree) -> Iterator[str]:
    """Imports of more than models by models and recipes, of checks by what users run, and from suite to suite."""
    for source in tree.sources:
        parts = source.path.removesuffix(".py").split("/")
        if parts[0] != "suites" or source.is_test:
            continue
        for target in tree.edges(source).values():
            others = target.path.removesuffix(".py").split("/")
            if _copied(source) and not _copied(target):
                yield f"{source.path} imports {target.path}: what users copy imports nothing of this project but models"
            elif not {"checks", "mutants"} & set(parts) and {"checks", "mutants"} & set(others):
                yield f"{source.path} imports {target.path}: what users run imports neither checks nor mutants"
            elif others[0] == "suites" and others[1:2] not in (parts[1:2], ["training"]) and not _shared(target):
                yield f"{source.path} imports {target.path}: of another suite only model, facts and base_models"


def _shared(source: Source) -> bool:
    models = _copied(source) and source.stem not in ("recipe", "layer_groups")
    return models or source.stem in ("architectures", "base_models") or source.path.count("/") < 2


def inside_reports(tree: Tree) -> Iterator[str]:
    """Imports against frames, drawing < comparison < sections < pages < __main__; and of the face by the rest."""

    def part(source: Source) -> str:
        return source.path.removesuffix(".py").split("/")[1]

    for source in tree.sources:
        if not source.path.startswith("reports/") or source.is_test or source.path == "reports/__init__.py":
            continue
        own = REPORT_FLOORS.get(part(source))
        if own is None:
            yield f"{source.path}: in no part of reports ({', '.join(REPORT_FLOORS)})"
            continue
        for target in tree.edges(source).values():
            other = REPORT_FLOORS.get(part(target), -1)
            if target.path == "reports/frames/__init__.py":
                yield f"{source.path} imports {target.path}: the face is for users"
            elif target.path.startswith("reports/") and part(target) != part(source) and other >= own:
                yield f"{source.path} imports {target.path}: {part(target)} is not below {part(source)}"


def no_circles(tree: Tree) -> Iterator[str]:
    """Files that import one another when they are imported, and folders that do so at all."""
    files = {s.path: list(tree.edges(s, lazy=False, typing=False)) for s in tree.sources}
    yield from (f"circle of files: {', '.join(circle)}" for circle in circles(files))
    folders: dict[str, list[str]] = {}
    for source in tree.sources:
        if not source.is_test and source.stem != "__init__":
            reached = (t for t in tree.edges(source, typing=False).values() if not t.is_test and t.stem != "__init__")
            folders.setdefault(_place(source), []).extend(_place(t) for t in reached if _place(t) != _place(source))
    yield from (f"circle of folders: {', '.join(circle)}" for circle in circles(folders))


def _place(source: Source) -> str:
    """The folder; of a room that is a file, the file."""
    name = source.path.removesuffix(".py")
    return name if name in FLOORS else source.folder


def sizes(tree: Tree) -> Iterator[str]:
    """Folders with too many files, files with too many lines, and files that are part of another."""
    counts: dict[str, int] = {}
    for source in tree.sources:
        if source.stem != "__init__":
            counts[source.folder] = counts.get(source.folder, 0) + 1
        if source.lines > MOST_LINES:
            yield f"{source.path}: more than {MOST_LINES} lines"
        if source.lines < FEWEST_LINES and source.stem not in COMMON_NAMES and not source.is_test:
            yield f"{source.path}: fewer than {FEWEST_LINES} lines, so part of another file"
    yield from (f"{folder}: more than {MOST_FILES} files" for folder, n in sorted(counts.items()) if n > MOST_FILES)


def faces(tree: Tree) -> Iterator[str]:
    """``__init__`` files that hold more than they may."""
    for source in tree.sources:
        if source.stem != "__init__":
            continue
        parts = source.folder.split("/")
        face = source.folder in FACES or (len(parts) == 3 and parts[0] == "suites" and parts[2] in FACES_OF_SUITES)
        if ast.get_docstring(source.tree) is None and not source.is_test:
            yield f"{source.path}: has no docstring"
        body = source.tree.body[1 if ast.get_docstring(source.tree) is not None else 0 :]
        if body and not face:
            yield f"{source.path}: holds more than a docstring"
        elif not all(_hands_on(node) for node in body):
            yield f"{source.path}: a face holds imports and lists of names alone"


def _hands_on(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        try:
            ast.literal_eval(node.value or ast.Constant(None))
        except ValueError:
            return False
        return True
    return isinstance(node, ast.Import | ast.ImportFrom)


def private_names(tree: Tree) -> Iterator[str]:
    """Names with a leading underscore that another file imports."""
    for source in tree.sources:
        for imported in source.imports:
            target = tree.target(imported)
            for name in (*imported.module.split("."), imported.name):
                if target is not None and name.startswith("_") and not name.startswith("__"):
                    yield f"{source.path} imports {imported.module}.{imported.name}: {name} is private there"


def light_imports(tree: Tree) -> Iterator[str]:
    """Files whose import brings a library that they must do without."""
    for libraries, prefixes in WITHOUT.items():
        for source in tree.sources:
            if under(source, prefixes) and not source.is_test:
                way = _way_to(tree, source, tuple(libraries.split()))
                if way:
                    yield f"{source.path} imports {' -> '.join(way)}"


def _way_to(tree: Tree, start: Source, libraries: tuple[str, ...]) -> list[str]:
    """The shortest chain of imports from a file to one of the libraries; empty where there is none."""
    ways: list[tuple[Source, list[str]]] = [(start, [])]
    seen = {start.path}
    for source, way in ways:  # it grows
        for imported in source.imports:
            if imported.module.split(".")[0] in libraries and not imported.lazy and not imported.typing:
                return [*way, imported.module.split(".")[0]]
        for path, target in tree.edges(source, lazy=False, typing=False, parents=True).items():
            if path not in seen:
                seen.add(path)
                ways.append((target, [*way, path]))
    return []


def mirrored_tests(tree: Tree) -> Iterator[str]:
    """Tests without a file of the same name in the place that they mirror."""
    for source in tree.sources:
        parts = source.path.split("/")
        if "tests" not in parts or not source.stem.startswith("test_") or source.path.startswith(ACROSS):
            continue
        where = parts.index("tests")
        above, below, name = "/".join(parts[:where]), parts[where + 1 : -1], source.stem.removeprefix("test_")
        words = name.removeprefix(f"{parts[where - 1]}_").split("_")
        names = {name, *("_".join(words[:n]) for n in range(1, len(words) + 1))}  # test_<file>_<aspect>
        names |= {f"__{n}__" for n in names}
        if parts[0] == "harness" or below:
            folder = "/".join([above, *below])
            there = any(f"{folder}/{n}{end}" in tree.by_path for n in names for end in (".py", "/__init__.py"))
        else:  # the test's folder has no folders: the name is enough
            there = any(s.path.startswith(above + "/") and not s.is_test and s.stem in names for s in tree.sources)
        if not there:
            yield f"{source.path}: there is no file of that name in {'/'.join([above, *below])}"


LAYOUT: tuple[Callable[[Tree], Iterator[str]], ...] = (floors, names_no_suite, suites, inside_reports, no_circles)
FILES: tuple[Callable[[Tree], Iterator[str]], ...] = (sizes, faces, private_names, light_imports, mirrored_tests)
RULES = {rule.__name__: rule for rule in (*LAYOUT, *FILES)}


def breaches(rule: str, tree: Tree) -> list[str]:
    """All of one rule, each once, sorted."""
    return sorted(set(RULES[rule](tree)))
