"""Keeps the import of mlx-lm from reading the files of all of transformers' models twice.

transformers (5.23) lists what each file of `transformers/models` defines, some 3,300 files, when
it is imported, and again when `transformers.models` is: the cache of its scan has 128 places for
550 folders. The second scan was a fifth of the processor time of a worker's start. Half of the
first one is looking for `__all__` line by line: that was a tenth of what was left. Remove this
module when the import of `transformers.models` reads those files no more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SCANNED = "transformers.models"
SCANNER = "transformers.utils.import_utils"
# What lists a folder's definitions, and what reads those of a file's text.
FUNCTION, READER = "define_import_structure", "fetch__all__"
DEFINITION = "__all__"

# By what they require: modules, and what each defines.
Structure = dict[frozenset[str], dict[str, set[str]]]
Reader = Callable[[str], list[str]]


@contextmanager
def models_scanned_once() -> Iterator[None]:
    """Import mlx-lm for the first time within this block.

    Within it `transformers.models` takes over what `transformers` has found.
    """
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
        if scanner is None or not (hasattr(scanner, FUNCTION) and hasattr(scanner, READER)):
            return None
        if READER not in self._own:
            self._replace(scanner, READER, read_definition)
        if fullname == SCANNED and path and FUNCTION not in self._own:
            folder = Path(path[0]) / "models"
            self._replace(scanner, FUNCTION, lambda scan: reuse_scan(scan, folder))
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


def reuse_scan(scan: Callable[..., Structure], folder: Path) -> Callable[..., Structure]:
    """A function as `scan`, except that the folder of the models is scanned once.

    Args:
        scan: it remembers its last results by their arguments.
        folder: the models; `transformers` has called `scan(folder, prefix="models")`.
    """

    def scan_once(module_path: Any, prefix: str | None = None) -> Structure:
        if prefix is None and Path(module_path) == folder / "__init__.py":
            return without_prefix(scan(folder, prefix="models"), "models.")
        return scan(module_path) if prefix is None else scan(module_path, prefix=prefix)

    return scan_once


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
