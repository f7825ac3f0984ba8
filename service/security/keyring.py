"""The API keys in force: those of the environment, and those in the current keys file."""

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

# A running service notices added and revoked keys within this time.
REFRESH_INTERVAL_S = 1.0

Stamp = tuple[int, int, int]


class KeyRing:
    """Finds the key that a request presents.

    Keys are `required` if the environment configures keys or the file exists. An existing
    file without keys therefore makes the service refuse every request. A file that is
    removed or becomes invalid while the service runs changes nothing: the keys that were
    read last stay in force.
    """

    def __init__(
        self,
        environment_keys: Sequence[ApiKey] = (),
        path: Path | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file for the first time.

        Raises:
            SettingsError: the file cannot be used.
        """
        self._environment_keys = tuple(environment_keys)
        self._path = path
        self._now = now
        self._stamp: Stamp | None = None
        self._refresh_at_s = now() + REFRESH_INTERVAL_S
        self._set_keys(self._environment_keys)
        self.required = bool(self._environment_keys)
        if path is not None and (stamp := read_stamp(path)) is not None:
            self._load(path, stamp)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def in_force(self) -> tuple[ApiKey, ...] | None:
        """The keys, one of which each request needs; None if none is required."""
        return tuple(key for key, _ in self._keys) if self.required else None

    def refresh(self) -> None:
        """Read the file again if it has changed; checked once per `REFRESH_INTERVAL_S`."""
        if self._path is None or (now := self._now()) < self._refresh_at_s:
            return
        self._refresh_at_s = now + REFRESH_INTERVAL_S
        stamp = read_stamp(self._path)
        if stamp == self._stamp:
            return
        if stamp is None:
            logger.error("%s does not exist any more: its keys stay in force", self._path)
            self._stamp = None
            return
        try:
            self._load(self._path, stamp)
        except SettingsError as error:
            self._stamp = stamp
            logger.error("%s; the keys read before stay in force", error)
        else:
            logger.info("%d API keys are in force", len(self))

    def find(self, presented: bytes) -> ApiKey | None:
        """The key with the text `presented`; None if there is none.

        The duration depends neither on which key matches nor on how much of one does: the
        digest is compared with those of all keys, each in constant time.
        """
        digest = digest_of(presented)
        match = None
        for key, expected in self._keys:
            if hmac.compare_digest(digest, expected):
                match = key
        return match

    def _load(self, path: Path, stamp: Stamp) -> None:
        try:
            keys = (*self._environment_keys, *read_keys(path))
        except FileNotFoundError:
            return
        check_names(keys, f"{path} and the environment")
        self._stamp = stamp
        self._set_keys(keys)
        self.required = True

    def _set_keys(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(key, bytes.fromhex(key.sha256)) for key in keys]


def open_keyring(settings: Settings) -> KeyRing:
    """The keys that the settings configure.

    Raises:
        SettingsError: the keys cannot be used, or a file named by the settings does not exist.
    """
    path = keys_path(settings.keys_file)
    keys = KeyRing(settings.api_keys, path)
    if path is not None and settings.keys_file != Settings().keys_file and not path.exists():
        raise SettingsError(f"keys_file: {path}: there is no such file; `mlxd keys add` creates it")
    return keys


def read_stamp(path: Path) -> Stamp | None:
    """A value that changes whenever the file is replaced; None if there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116 (once a second; half the time of Path.stat)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
