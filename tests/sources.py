"""The project's own source files, read as text and as syntax trees."""

from __future__ import annotations

import ast
import functools
import io
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PRODUCT = ("service", "worker", "protocol")
EVERYTHING = (*PRODUCT, "tests")
# Fields of syntax trees that hold statements, or clauses that do.
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Source:
    """One source file; `path` is relative to the root of the repository."""

    path: str
    text: str

    @property
    def package(self) -> str:
        return PurePosixPath(self.path).parts[0]

    @property
    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(ast.parse(self.text, self.path))

    def mentions(self, *words: str) -> bool:
        """Whether one of `words` is anywhere in the text: a fast check before parsing."""
        return any(word in self.text for word in words)


@dataclass(frozen=True)
class Outline:
    """What several rules ask of a source's syntax tree, which takes much more memory.

    `imports` are absolute dotted names, `functions` names with numbers of lines.
    """

    imports: list[str]
    functions: list[tuple[str, int]]


def sources(*packages: str) -> list[Source]:
    """Every Python file of `packages`. A package without files would prove nothing: an error."""
    found = []
    for package in packages:
        paths = sorted((ROOT / package).rglob("*.py"))
        assert paths, f"{package} has no source files"
        found += [
            Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
            for path in paths
        ]
    return found


def imported(source: Source) -> list[str]:
    """Dotted names of all that `source` imports, wherever in it; relative ones made absolute."""
    return outline(source).imports


@functools.cache
def outline(source: Source) -> Outline:
    """The imports and functions of `source`. Each source is parsed for it once."""
    imports, functions = [], []
    for node in statements(ast.parse(source.text, source.path)):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(source, node)
            imports += [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node.name, (node.end_lineno or node.lineno) - node.lineno + 1))
    return Outline(imports, functions)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """`tree` and the statements in it, at any depth, without their expressions."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in BLOCKS:
            block = getattr(node, name, None)
            # A lambda's or a conditional's is an expression.
            if isinstance(block, list):
                todo += block


def prose(source: Source) -> Iterator[tuple[int, str]]:
    """Comments and strings of a source file, with the line that each begins at."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def tracked_files(*patterns: str) -> list[Path]:
    """The files of the repository that match, as git knows them."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).exists()]


def within(name: str, roots: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of `roots` or lies in one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _origin(source: Source, node: ast.ImportFrom) -> str:
    here = PurePosixPath(source.path).parts[: -node.level] if node.level else ()
    return ".".join([*here, *([node.module] if node.module else [])])


Rule = Callable[[Source], list[str]]


def violations(rule: Rule, *packages: str) -> list[str]:
    """What `rule` finds in `packages`, a line each."""
    return [
        f"{source.path}: {finding}" for source in sources(*packages) for finding in rule(source)
    ]
