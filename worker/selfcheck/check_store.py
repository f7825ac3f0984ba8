"""The results of checks on disk, beside the prompt cache's files: a check is made once.

A file is named by all that a result depends on: the model's content (with its adapter), the
versions of what computes, and the device. Files are the owner's alone. A lost or damaged file
only costs another check.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from protocol.batching import BatchRules

logger = logging.getLogger(__name__)

FORMAT = 6
"""To be raised when the check finds more than before."""
FILE_MODE = 0o600
KEY_BYTES = 16
MAX_FILES = 256
PREFIX, SUFFIX = "check-", ".json"
PACKAGES = ("mlxd", "mlx", "mlx-lm")


class CheckStore:
    """Results in `folder`, which exists; `settings` are what they depend on besides the model.

    Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None = None, settings: Sequence[object] = ()) -> None:
        self._folder = folder
        self._settings = [str(setting) for setting in settings]

    def read(self, content_key: str) -> BatchRules | None:
        """The result for a model of this content; None if there is none."""
        if self._folder is None:
            return None
        path = self._path(self._folder, content_key)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return msgspec.json.decode(file.read(), type=BatchRules)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("the result of a check, %s, is ignored: %s", path.name, error)
            return None

    def write(self, content_key: str, rules: BatchRules) -> None:
        """Keep a result that is complete."""
        if self._folder is None or rules.unchecked:
            return
        path = self._path(self._folder, content_key)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(draft, flags, FILE_MODE), "wb") as file:
                file.write(msgspec.json.encode(rules))
            draft.replace(path)
            self._remove_oldest(self._folder)
        except OSError as error:
            draft.unlink(missing_ok=True)
            logger.warning("the result of a check cannot be written: %s", error)

    def _path(self, folder: Path, content_key: str) -> Path:
        versions = [f"{package} {version(package)}" for package in PACKAGES]
        text = "\n".join([content_key, f"format {FORMAT}", *versions, *self._settings])
        name = hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()
        return folder / f"{PREFIX}{name}{SUFFIX}"

    def _remove_oldest(self, folder: Path) -> None:
        files = sorted(folder.glob(f"{PREFIX}*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-MAX_FILES]:
            path.unlink(missing_ok=True)
