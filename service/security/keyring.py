"""The keys that a request may have now: the environment's, and those of the file as it is now."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service.config.api_keys import ApiKey, check_names, digest_of, keys_path, read_keys
from service.config.scalars import SettingsError
from service.config.settings import Settings

logger = logging.getLogger(__name__)

# So soon does a running service notice that a key was added or revoked.
LOOK_AGAIN_S = 1.0

Stamp = tuple[int, int, int]


class KeyRing:
    """Finds the key that a request brought.

    Where neither a file nor the environment configures keys, none are `required`. A file
    that holds none does: every request is refused then. A file that goes away or breaks
    while the service runs changes nothing: the keys read last stay in force.
    """

    def __init__(
        self,
        fixed: Sequence[ApiKey] = (),
        path: Path | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file for the first time.

        Raises:
            SettingsError: it cannot be used.
        """
        self._fixed = tuple(fixed)
        self._path = path
        self._now = now
        self._stamp: Stamp | None = None
        self._look_at_s = now() + LOOK_AGAIN_S
        self._hold(self._fixed)
        self.required = bool(self._fixed)
        if path is not None and (stamp := stamp_of(path)) is not None:
            self._take(path, stamp)

    def __len__(self) -> int:
        return len(self._keys)

    def refresh(self) -> None:
        """Read the file again if it changed since the last look, a moment ago at the latest."""
        if self._path is None or (now := self._now()) < self._look_at_s:
            return
        self._look_at_s = now + LOOK_AGAIN_S
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return
        if stamp is None:
            logger.error("%s is gone: its keys stay in force", self._path)
            self._stamp = None
            return
        try:
            self._take(self._path, stamp)
        except SettingsError as error:
            self._stamp = stamp
            logger.error("%s; the keys read before stay in force", error)
        else:
            logger.info("%d API keys are in force", len(self))

    def find(self, presented: bytes) -> ApiKey | None:
        """The key whose text this is.

        How long it takes depends neither on which key it is nor on how much of one is right:
        digests are compared, in constant time, and always with all.
        """
        digest = digest_of(presented)
        found = None
        for key, expected in self._keys:
            if hmac.compare_digest(digest, expected):
                found = key
        return found

    def _take(self, path: Path, stamp: Stamp) -> None:
        try:
            keys = (*self._fixed, *read_keys(path))
        except FileNotFoundError:
            return
        check_names(keys, f"{path} and the environment")
        self._stamp = stamp
        self._hold(keys)
        self.required = True

    def _hold(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(key, bytes.fromhex(key.sha256)) for key in keys]


def open_keyring(settings: Settings) -> KeyRing:
    """The keys that the settings configure.

    Raises:
        SettingsError: they cannot be used, or a file that was named is not there.
    """
    path = keys_path(settings.keys_file)
    keys = KeyRing(settings.api_keys, path)
    if path is not None and settings.keys_file != Settings().keys_file and not path.exists():
        raise SettingsError(f"keys_file: {path}: there is no such file; `mlxd keys add` makes it")
    return keys


def stamp_of(path: Path) -> Stamp | None:
    """What changes with every replacement of a file; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (once a second; half the time of Path.stat)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
