"""What the worker is started with on Linux, and what its environment says of it."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys

import pytest

from service.supervision.preloads import Preloads, find_preloads

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


def test_nothing_preloaded_leaves_the_environment_as_it_was() -> None:
    environ = {"A": "1", "LD_PRELOAD": "x.so"}
    assert Preloads().put_into(environ) == environ
    assert Preloads().put_into({"A": "1"}) == {"A": "1"}


def test_the_libraries_come_before_what_was_preloaded() -> None:
    environ = Preloads("/lib/blas.so", "/lib/malloc.so").put_into({"LD_PRELOAD": "x.so"})
    assert environ["LD_PRELOAD"] == "/lib/blas.so /lib/malloc.so x.so"


def test_a_blas_has_one_thread_unless_somebody_said_otherwise() -> None:
    blas = Preloads("/lib/blas.so")
    assert blas.put_into({})["OPENBLAS_NUM_THREADS"] == "1"
    assert blas.put_into({"OPENBLAS_NUM_THREADS": "4"})["OPENBLAS_NUM_THREADS"] == "4"
    assert "OPENBLAS_NUM_THREADS" not in Preloads(allocator="/lib/malloc.so").put_into({})


def test_off_finds_no_library() -> None:
    assert find_preloads("off", "off") == Preloads()


@linux_only
def test_a_path_is_taken_as_it_is() -> None:
    assert find_preloads("/a/blas.so", "/a/malloc.so") == Preloads("/a/blas.so", "/a/malloc.so")


@linux_only
def test_with_auto_it_is_what_the_system_has(monkeypatch: pytest.MonkeyPatch) -> None:
    system = {"jemalloc": "libjemalloc.so.2"}
    monkeypatch.setattr(ctypes.util, "find_library", system.get)
    assert find_preloads("auto", "auto") == Preloads(None, "libjemalloc.so.2")


def test_elsewhere_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find_preloads("auto", "/a/malloc.so") == Preloads()


@linux_only
def test_a_program_starts_with_all_that_is_found_here() -> None:
    found = find_preloads("auto", "auto")
    script = "print(open('/proc/self/maps').read())"
    maps = subprocess.run(
        [sys.executable, "-c", script],
        env=found.put_into({}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert maps.stderr == ""
    for library in filter(None, [found.blas, found.allocator]):
        assert library.split(".so")[0] in maps.stdout


def test_they_are_told_by_their_names() -> None:
    assert str(Preloads("a.so", "b.so")) == "a.so, b.so"
    assert str(Preloads()) == "nothing"
