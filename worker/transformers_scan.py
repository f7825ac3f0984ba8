"""Keeps the import of mlx-lm from reading the files of all of transformers' models each time.

transformers (5.23) lists what each file of `transformers/models` defines, some 3,300 files, when
it is imported, and again when `transformers.models` is: the cache of its scan has 128 places for
550 folders. The two scans were a third of the processor time of a worker's start. Half of one is
looking for `__all__` line by line. What a scan finds is kept beside this module's bytecode, and is
valid as bytecode is: while every file that was read has its time and its size. Remove this module
when the import of `transformers.models` reads those files no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

SCANNER = "transformers.utils.import_utils"
# What lists a folder's definitions, and what reads those of a file's text.
FUNCTION, READER = "define_import_structure", "fetch__all__"
DEFINITION = "__all__"
# What comes before the modules' names in transformers' own scan of its models.
PREFIX = "models"
KEY_BYTES = 16

# By what they require: modules, and what each defines.
Structure = dict[frozenset[str], dict[str, set[str]]]
Reader = Callable[[str], list[str]]


@contextmanager
def models_scanned_once() -> Iterator[None]:
    """Import mlx-lm for the first time within this block: it reads the models' files if it must."""
    finder = ScanFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.restore()


class ScanFinder(MetaPathFinder):
    """Finds nothing. It acts between the imports of `transformers`' modules."""

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None: the other finders find the module."""
        scanner = sys.modules.get(SCANNER)
        if self._own or not (hasattr(scanner, FUNCTION) and hasattr(scanner, READER)):
            return None
        assert scanner is not None
        assert scanner.__file__ is not None
        file = Path(scanner.__file__)
        scans = KeptScans(file, file.parents[1] / "models", kept_file())
        self._replace(scanner, READER, read_definition)
        self._replace(scanner, FUNCTION, lambda scan: reuse_scan(scan, scans))
        return None

    def restore(self) -> None:
        """Put back transformers' own functions."""
        for name, own in self._own.items():
            setattr(sys.modules[SCANNER], name, own)

    def _replace(self, scanner: ModuleType, name: str, make: Callable[[Any], Any]) -> None:
        self._own[name] = getattr(scanner, name)
        setattr(scanner, name, make(self._own[name]))


def read_definition(read: Reader) -> Reader:
    """A function as `read`, which gets the text from its last line that begins with `__all__`."""

    def read_last(file_content: str) -> list[str]:
        if (start := file_content.rfind(f"\n{DEFINITION}")) >= 0:
            return read(file_content[start + 1 :])
        return read(file_content) if file_content.startswith(DEFINITION) else []

    return read_last


def reuse_scan(scan: Callable[..., Structure], kept: KeptScans) -> Callable[..., Structure]:
    """A function as `scan`, except that the folder of the models is scanned once at most.

    `transformers` calls `scan(folder, prefix="models")`, and adds to what it gets.
    """
    whole: list[Structure] = []

    def scan_models() -> Structure:
        if not whole:
            whole.append(kept.read() or kept.write(scan(kept.folder, prefix=PREFIX)))
        return whole[0]

    def scan_once(module_path: Any, prefix: str | None = None) -> Structure:
        if prefix == PREFIX and Path(module_path) == kept.folder:
            return scan_models()
        if prefix is None and Path(module_path) == kept.folder / "__init__.py":
            return without_prefix(scan_models(), f"{PREFIX}.")
        return scan(module_path) if prefix is None else scan(module_path, prefix=prefix)

    return scan_once


class Kept(msgspec.Struct):
    """What is kept: `key` stands for the files, `found` has requirements, modules and names."""

    key: str
    found: list[tuple[list[str], dict[str, list[str]]]]


class KeptScans:
    """What the scan of `folder` by the code in the file `scanner` has found, in `file`, if any.

    A file that cannot be read or written is as none.
    """

    def __init__(self, scanner: Path, folder: Path, file: Path | None) -> None:
        self.folder = folder
        self._file = file
        self._key = ""
        if file is not None:
            own = describe(str(scanner), scanner.stat())
            self._key = key_of([own, *python_files(str(folder))])

    def read(self) -> Structure | None:
        """What was found in these very files; None if that is not known."""
        if self._file is None:
            return None
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None
        if kept.key != self._key:
            return None
        return {
            frozenset(requirements): {name: set(names) for name, names in modules.items()}
            for requirements, modules in kept.found
        }

    def write(self, structure: Structure) -> Structure:
        """Keep this; returns it."""
        if self._file is not None and not sys.dont_write_bytecode:
            found = [
                (sorted(requirements), {name: sorted(names) for name, names in modules.items()})
                for requirements, modules in structure.items()
            ]
            draft = self._file.with_suffix(f".{os.getpid()}.draft")
            with contextlib.suppress(OSError):
                self._file.parent.mkdir(exist_ok=True)
                draft.write_bytes(msgspec.json.encode(Kept(self._key, found)))
                draft.replace(self._file)
        return structure


def kept_file() -> Path | None:
    """Where a scan is kept; None where this Python keeps no bytecode."""
    try:
        return Path(cache_from_source(__file__)).with_suffix(".json")
    except NotImplementedError:
        return None


def python_files(folder: str) -> Iterator[str]:
    """A line for each Python file within a folder, in any order: its path, time and size."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield describe(entry.path, entry.stat())
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from python_files(entry.path)


def describe(path: str, status: os.stat_result) -> str:
    """What tells whether a file is another than before."""
    return f"{path} {status.st_mtime_ns} {status.st_size}"


def key_of(lines: Iterable[str]) -> str:
    """A digest of the files' lines."""
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=KEY_BYTES).hexdigest()


def without_prefix(structure: Structure, prefix: str) -> Structure:
    """The part of a structure whose modules have the prefix, named without it."""
    return {
        required: {
            module.removeprefix(prefix): names
            for module, names in modules.items()
            if module.startswith(prefix)
        }
        for required, modules in structure.items()
    }
