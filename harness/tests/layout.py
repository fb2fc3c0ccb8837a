"""Reads the sources of a tree: its Python files and what they import, without importing any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGES = ("harness", "reference", "reports", "suites")


@dataclass(frozen=True)
class Import:
    """One import of one name."""

    module: str
    """Dotted, as it is written after ``from`` or ``import``; absolute."""
    name: str
    """What is imported from it; empty for ``import module``."""
    lazy: bool
    """Inside a function: it happens when that is called."""
    typing: bool
    """Under ``if TYPE_CHECKING``: it never happens."""


@dataclass(frozen=True)
class Source:
    """A Python file; ``path`` is relative to the root, with slashes."""

    path: str
    tree: ast.Module
    lines: int

    @property
    def module(self) -> str:
        """Its dotted name."""
        parts = self.path.removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def folder(self) -> str:
        """Of the file, with slashes."""
        return self.path.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """Name of the file without folder and ending."""
        return self.path.rpartition("/")[2].removesuffix(".py")

    @property
    def is_test(self) -> bool:
        """Whether it belongs to the tests: of this project, or those that pytest collects in a suite."""
        return "tests" in self.path.split("/") or self.stem.startswith("test_") or self.stem == "conftest"

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """All of them, in order."""
        package = self.module if self.stem == "__init__" else self.module.rpartition(".")[0]
        return tuple(_imports(self.tree.body, package, lazy=False, typing=False))


def _imports(body: Sequence[ast.AST], package: str, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parts, *filter(None, [node.module])])
            yield from (Import(module, alias.name, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imports(node.body, package, lazy=lazy, typing=True)
            yield from _imports(node.orelse, package, lazy=lazy, typing=typing)
        else:
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(list(ast.iter_child_nodes(node)), package, lazy=inside, typing=typing)


class Tree:
    """All Python files of the project's packages under ``root``."""

    def __init__(self, root: Path) -> None:
        paths = sorted(p for package in PACKAGES for p in (root / package).rglob("*.py"))
        self.sources: list[Source] = []
        for path in paths:
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(root).as_posix()
            self.sources.append(Source(name, ast.parse(text, name), len(text.splitlines())))
        self.by_module: Mapping[str, Source] = {s.module: s for s in self.sources}
        self.by_path: Mapping[str, Source] = {s.path: s for s in self.sources}

    def target(self, imported: Import) -> Source | None:
        """The project's file that is imported; None for what is not of the project."""
        inner = f"{imported.module}.{imported.name}"
        return self.by_module.get(inner) or self.by_module.get(imported.module)

    def edges(
        self, source: Source, *, lazy: bool = True, typing: bool = True, parents: bool = False
    ) -> dict[str, Source]:
        """Files that a file imports, by path; with ``parents`` also the packages that Python runs on the way there."""
        found: dict[str, Source] = {}
        for imported in source.imports:
            if (imported.lazy and not lazy) or (imported.typing and not typing):
                continue
            target = self.target(imported)
            if target is None:
                continue
            names = [target.module]
            if parents:
                parts = target.module.split(".")
                names += [".".join(parts[:n]) for n in range(1, len(parts))]
            for name in names:
                if name in self.by_module and self.by_module[name] is not source:
                    found[self.by_module[name].path] = self.by_module[name]
        return found


def circles(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another, each sorted (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found)
