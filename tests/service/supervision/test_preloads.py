"""The libraries that are preloaded on Linux, and the environment that preloads them."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

from service.config.scalars import SettingsError
from service.supervision.preloads import Preloads, find_preloads

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


def test_without_libraries_the_environment_is_unchanged() -> None:
    environ = {"A": "1", "LD_PRELOAD": "x.so"}
    assert Preloads().apply_to(environ) == environ
    assert Preloads().apply_to({"A": "1"}) == {"A": "1"}


def test_the_libraries_precede_those_of_the_environment() -> None:
    environ = Preloads(blas="/lib/blas.so", allocator="/lib/malloc.so").apply_to(
        {"LD_PRELOAD": "x.so"}
    )
    assert environ["LD_PRELOAD"] == "/lib/blas.so /lib/malloc.so x.so"


def test_blas_has_one_thread_unless_the_environment_sets_another_number() -> None:
    blas = Preloads("/lib/blas.so")
    assert blas.apply_to({})["OPENBLAS_NUM_THREADS"] == "1"
    assert blas.apply_to({"OPENBLAS_NUM_THREADS": "4"})["OPENBLAS_NUM_THREADS"] == "4"
    assert "OPENBLAS_NUM_THREADS" not in Preloads(allocator="/lib/malloc.so").apply_to({})


def test_off_finds_no_library() -> None:
    assert find_preloads("off", "off") == Preloads()


@linux_only
def test_a_path_is_used_unchanged(tmp_path: Path) -> None:
    blas, allocator = tmp_path / "blas.so", tmp_path / "malloc.so"
    for path in blas, allocator:
        path.touch()
    assert find_preloads(str(blas), str(allocator)) == Preloads(str(blas), str(allocator))


@linux_only
def test_auto_is_the_library_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    system = {"jemalloc": "libjemalloc.so.2"}
    monkeypatch.setattr(ctypes.util, "find_library", system.get)
    assert find_preloads("auto", "auto") == Preloads(None, "libjemalloc.so.2")


def test_no_library_is_preloaded_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find_preloads("auto", "/a/malloc.so") == Preloads()


@linux_only
def test_a_program_starts_with_the_libraries_of_this_system() -> None:
    preloads = find_preloads("auto", "auto")
    script = "print(open('/proc/self/maps').read())"
    maps = subprocess.run(
        [sys.executable, "-c", script],
        env=preloads.apply_to({}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert maps.stderr == ""
    for library in filter(None, [preloads.blas, preloads.allocator]):
        assert library.split(".so")[0] in maps.stdout


def test_preloads_are_shown_by_the_names_of_the_libraries() -> None:
    assert str(Preloads("a.so", "b.so")) == "a.so, b.so"
    assert str(Preloads()) == "nothing"


@linux_only
@pytest.mark.parametrize(("blas", "allocator"), [("/none/x.so", "off"), ("off", "/none/x.so")])
def test_a_path_without_a_file_is_refused_by_the_settings_name(blas: str, allocator: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find_preloads(blas, allocator)
    name = "blas" if allocator == "off" else "allocator"
    assert str(caught.value) == f"{name}: there is no file /none/x.so"
    assert find_preloads("off", "libjemalloc.so.2").allocator == "libjemalloc.so.2"
