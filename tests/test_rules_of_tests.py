"""Rules of the tests: each one checks something, helpers have modules of their own, no sleeping."""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath

import pytest

from tests.sources import Rule, Source, imported, statements, violations

# A call of these checks something: pytest's own, Playwright's, schemathesis's, and our helpers.
CHECKS = ("raises", "warns", "assert_", "check_", "expect", "wait_", "call_and_validate")
# Waiting for another process, and a pause that is itself what is tested.
SLEEPERS = ("tests/waiting.py", "tests/e2e/test_faults_restart.py")
SLEEPS = ("time.sleep", "threading.Event().wait")

# The beginning of a statement that may import from a module that pytest collects or loads.
NAMED_IMPORT = re.compile(r"\b(from|import)\s.*\b(test_|conftest)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_test_module(name: str) -> bool:
    """Whether pytest collects a module of this name, or loads it by itself."""
    return name.startswith("test_") or name == "conftest"


def imports_from_test_modules(source: Source) -> list[str]:
    """What several test modules use lies in a module without tests."""
    # Few files need to be parsed.
    if not NAMED_IMPORT.search(source.text):
        return []
    names = [name.split(".") for name in imported(source)]
    return [
        ".".join(parts)
        for parts in names
        if parts[0] == "tests" and any(map(is_test_module, parts[1:-1]))
    ]


def checkless_tests(source: Source) -> list[str]:
    """A test asserts, or calls what does: a check's name, or a function of its own module."""
    if not PurePosixPath(source.path).name.startswith("test_"):
        return []
    tree = ast.parse(source.text, source.path)
    functions = [node for node in statements(tree) if isinstance(node, Function)]
    checking = [function.name for function in functions if checks_something(function)]
    return [
        function.name
        for function in functions
        if function.name.startswith("test_")
        and not checks_something(function)
        and not set(called(function)) & set(checking)
    ]


def checks_something(function: Function) -> bool:
    """Whether an assertion, or a call of a check, is somewhere in it."""
    return any(isinstance(node, ast.Assert) for node in statements(function)) or any(
        name.startswith(CHECKS) for name in called(function)
    )


def called(function: Function) -> list[str]:
    """The names of what is called in it, without what they are attributes of."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return [
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in calls
        if isinstance(node, ast.Attribute | ast.Name)
    ]


def sleeps(source: Source) -> list[str]:
    """A test waits for what it waits for, not for a time."""
    if source.path in SLEEPERS or source.path.startswith("tests/load/"):
        return []
    if not source.mentions(*(name.rpartition(".")[2] for name in SLEEPS)):
        return []
    calls = [ast.unparse(node.func) for node in source.nodes if isinstance(node, ast.Call)]
    return [name for name in calls if name in SLEEPS]


def test_no_module_imports_from_a_test_module() -> None:
    assert violations(imports_from_test_modules, "tests") == []


def test_every_test_checks_something() -> None:
    assert violations(checkless_tests, "tests") == []


def test_no_test_sleeps() -> None:
    assert violations(sleeps, "tests") == []


BROKEN: list[tuple[Rule, str, str]] = [
    (imports_from_test_modules, "tests/a/test_b.py", "from tests.a.test_c import helper"),
    (imports_from_test_modules, "tests/a/test_b.py", "from .test_c import helper"),
    (imports_from_test_modules, "tests/a/b.py", "from tests.conftest import fixture"),
    (checkless_tests, "tests/a/test_b.py", "def test_x():\n    f()"),
    (checkless_tests, "tests/a/test_b.py", "async def test_x():\n    await f.close()"),
    (checkless_tests, "tests/a/test_b.py", "class TestA:\n    def test_x(self): f()"),
    (checkless_tests, "tests/a/test_b.py", "def f(): g()\ndef test_x():\n    f()"),
    (sleeps, "tests/a/test_b.py", "import time\ndef test_x():\n    time.sleep(1)\n    assert f()"),
    (sleeps, "tests/a/test_b.py", "threading.Event().wait(0.1)"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_each_rule_catches_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text))


ALLOWED: list[tuple[Rule, str, str]] = [
    (imports_from_test_modules, "tests/a/test_b.py", "from tests.a.recorder import Recorder"),
    (checkless_tests, "tests/a/test_b.py", "def test_x():\n    assert f()"),
    (
        checkless_tests,
        "tests/a/test_b.py",
        "def test_x():\n    with raises(E): f()",
    ),
    (checkless_tests, "tests/a/test_b.py", "def test_x():\n    daemon.wait_until(1)"),
    (checkless_tests, "tests/a/test_b.py", "def f(): assert g()\ndef test_x():\n    f()"),
    (checkless_tests, "tests/a/b.py", "def test_x():\n    f()"),
    (sleeps, "tests/a/test_b.py", "left.wait()"),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_each_rule_lets_pass_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) == []
