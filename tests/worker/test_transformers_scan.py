"""transformers knows the same of its models though their files are read only where one is new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import HANG_S
from worker.transformers_scan import KeptScans, ScanFinder, Structure, read_definition

# The comparison, where it is asked for, reads each file once more.
IMPORT = """
import collections, json, sys
from pathlib import Path
opened = collections.Counter()
sys.addaudithook(lambda event, args: event == "open" and opened.update([str(args[0])]))
import worker.transformers_scan as scans
scans.kept_file = lambda: Path(sys.argv[1])
with scans.models_scanned_once():
    import mlx_lm
from transformers.utils import import_utils
import transformers.models as models
found = {
    "opened": sum(count for name, count in opened.items() if "/models/llama/modeling_" in name),
    "restored": all(
        getattr(import_utils, name).__module__ == import_utils.__name__
        for name in ("define_import_structure", "fetch__all__")
    ),
}
if sys.argv[2:]:
    import_utils.create_import_structure_from_path.cache_clear()
    own = import_utils.define_import_structure.__wrapped__(models.__spec__.origin)
    known = {name for modules in own.values() for names in modules.values() for name in names}
    found |= {"missing": sorted(known - set(dir(models))), "many": len(known) > 1000}
print(json.dumps(found))
"""
STRUCTURE: Structure = {
    frozenset(): {"models.a": {"A", "B"}},
    frozenset({"torch", "vision"}): {"models.a": {"C"}, "models.b.c": {"D"}},
}


def import_with(file: Path, *words: str) -> dict[str, Any]:
    """What an import found where a scan is kept in `file`; with a word it is compared."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(file), *words],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_models_files_are_read_once_for_all_imports_and_all_that_they_define_is_known(
    tmp_path: Path,
) -> None:
    file = tmp_path / "scan.json"
    assert import_with(file) == {"opened": 1, "restored": True}
    assert import_with(file, "compare") == {
        "opened": 0,
        "restored": True,
        "missing": [],
        "many": True,
    }


@pytest.fixture
def scanned(tmp_path: Path) -> Path:
    """A folder of models, and its scanner."""
    folder = tmp_path / "models"
    (folder / "b").mkdir(parents=True)
    for name in ("../scanner.py", "a.py", "b/c.py"):
        (folder / name).write_text(name)
    return folder


def open_scans(scanned: Path) -> KeptScans:
    return KeptScans(scanned.parent / "scanner.py", scanned, scanned.parent / "kept" / "scan.json")


def test_what_is_kept_is_what_was_found(scanned: Path) -> None:
    assert open_scans(scanned).read() is None
    assert open_scans(scanned).write(STRUCTURE) is STRUCTURE
    assert open_scans(scanned).read() == STRUCTURE
    assert [path.name for path in (scanned.parent / "kept").iterdir()] == ["scan.json"]


@pytest.mark.parametrize("name", ["../scanner.py", "a.py", "b/c.py"])
def test_a_file_of_another_time_or_size_is_scanned_again(scanned: Path, name: str) -> None:
    open_scans(scanned).write(STRUCTURE)
    file = scanned / name
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    assert open_scans(scanned).read() is None
    file.write_text("longer than before")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_scans(scanned).read() is None


def test_a_file_more_or_less_is_scanned_again(scanned: Path) -> None:
    open_scans(scanned).write(STRUCTURE)
    (scanned / "b" / "d.py").touch()
    assert open_scans(scanned).read() is None
    (scanned / "b" / "d.py").unlink()
    assert open_scans(scanned).read() == STRUCTURE
    (scanned / "b" / "c.py").unlink()
    assert open_scans(scanned).read() is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_file_is_as_none(scanned: Path, damage: bytes) -> None:
    scans = open_scans(scanned)
    scans.write(STRUCTURE)
    (scanned.parent / "kept" / "scan.json").write_bytes(damage)
    assert scans.read() is None


def test_a_folder_that_cannot_be_written_and_no_folder_cost_only_another_scan(
    scanned: Path,
) -> None:
    (scanned.parent / "kept").write_text("a file")
    assert open_scans(scanned).write(STRUCTURE) is STRUCTURE
    assert open_scans(scanned).read() is None
    nowhere = KeptScans(scanned.parent / "scanner.py", scanned, None)
    assert nowhere.write(STRUCTURE) is STRUCTURE
    assert nowhere.read() is None


def test_other_modules_are_left_to_other_finders() -> None:
    finder = ScanFinder()
    assert finder.find_spec("transformers.utils", ["/nowhere"]) is None
    finder.restore()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a = 1\n__all__ = ['a']\n", ["__all__ = ['a']\n"]),
        ("__all__ = ['a']\nb = __all__\n", ["__all__ = ['a']\nb = __all__\n"]),
        ("__all__ = ['a']\n__all__ = ['b']", ["__all__ = ['b']"]),
        ("a = __all__\n", []),
        ("", []),
    ],
)
def test_only_what_follows_the_last_definition_is_read(text: str, read: list[str]) -> None:
    given: list[str] = []

    def read_text(text: str) -> list[str]:
        given.append(text)
        return []

    assert read_definition(read_text)(text) == []
    assert given == read
