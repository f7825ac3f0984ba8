"""API keys: what is known of one, and the file that lists them.

A key is never stored: only its SHA-256 is. That is enough because `make_key` draws 256
bits; a slow hash protects keys that can be guessed, and costs every request. The
environment's keys are the operator's own and must be long (`parse_keys`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from service.config.scalars import SettingsError
from service.errors import excerpt

# A secret: never a flag, which other users of the machine can read, nor a key of a file.
API_KEYS_VARIABLE = "MLXD_API_KEYS"
KEY_PREFIX = "mlxd-"
KEY_BYTES = 32
MIN_KEY_CHARS = 16
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ADMIN = "admin"
OFF = "off"
# Only its owner may read the file, or change what lies beside it.
FILE_MODE = 0o600
FOLDER_MODE = 0o700
MAX_LIMIT = 10**9

Limit = Annotated[int, Meta(ge=0, le=MAX_LIMIT)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. Limits are requests at once and tokens a minute: None is the setting's, 0 none."""

    name: Annotated[str, Meta(pattern=rf"^{NAME.pattern}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    admin: bool = False
    max_concurrent: Limit | None = None
    tokens_per_minute: Limit | None = None
    created: str = ""


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds."""

    keys: tuple[ApiKey, ...] = ()


def digest_of(key: bytes) -> bytes:
    """What is kept and compared of a key: 32 bytes, whatever its length."""
    return hashlib.sha256(key).digest()


def make_key(
    name: str,
    *,
    admin: bool = False,
    max_concurrent: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[str, ApiKey]:
    """A new key: its text, which is told once, and what is kept of it."""
    text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    kept = ApiKey(
        name=name,
        sha256=digest_of(text.encode()).hex(),
        admin=admin,
        max_concurrent=max_concurrent,
        tokens_per_minute=tokens_per_minute,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return text, kept


def parse_keys(text: str, origin: str) -> tuple[ApiKey, ...]:
    """Keys written as KEY, NAME:KEY or NAME:admin:KEY, with commas between them.

    Raises:
        SettingsError: one cannot be used; the message says which by its place, never by its text.
    """
    keys = []
    words = [word.strip() for word in text.split(",") if word.strip()]
    for place, word in enumerate(words, 1):
        *labels, secret = word.split(":")
        name = labels[0] if labels else f"key-{place}"
        if labels[1:] not in ([], [ADMIN]) or not NAME.fullmatch(name):
            raise SettingsError(f"{origin}: key {place} is none of KEY, NAME:KEY, NAME:admin:KEY")
        if len(secret) < MIN_KEY_CHARS or not (secret.isascii() and secret.isprintable()):
            raise SettingsError(
                f"{origin}: key {place} is not {MIN_KEY_CHARS} or more printable ASCII characters"
            )
        sha256 = digest_of(secret.encode()).hex()
        keys.append(ApiKey(name=name, sha256=sha256, admin=len(labels) > 1))
    if not keys:
        raise SettingsError(f"{origin}: it is set, and holds no key")
    check_names(keys, origin)
    return tuple(keys)


def check_names(keys: Sequence[ApiKey], origin: str) -> None:
    """Refuse two keys of one name: neither the log nor `revoke` could tell them apart.

    Raises:
        SettingsError: there are two.
    """
    names = [key.name for key in keys]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"{origin}: two keys have the name {twice}")


# ---------------------------------------------------------------- the file


def keys_path(setting: str) -> Path | None:
    """The file that `keys_file` names; None where it is off.

    Raises:
        SettingsError: its home folder is not known.
    """
    try:
        return None if setting == OFF else Path(setting).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"keys_file: {setting}: {error}") from None


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it cannot be read or used.
    """
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=KeyList).keys
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no list of keys: {excerpt(str(error))}") from None
    check_names(keys, str(path))
    return keys


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file in one step, so that a reader finds the old list or the new one.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    data = msgspec.json.format(msgspec.json.encode(KeyList(tuple(keys))), indent=2)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file at the same time; its folder is made."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
