"""API keys, and the file that stores them.

Only the SHA-256 of a key is stored. This is enough because `make_key` draws 256 random bits:
a slow hash would only protect keys that can be guessed, and cost time for every request. The
operator chooses the keys of the environment, which must be long (`parse_keys`).
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

# Keys are secrets: there is no flag, which other users of the machine can read, and no key
# of the settings file.
API_KEYS_VARIABLE = "MLXD_API_KEYS"
KEY_PREFIX = "mlxd-"
KEY_BYTES = 32
MIN_KEY_CHARS = 16
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ADMIN_LABEL = "admin"
OFF = "off"
# Only the owner may read the file, or change the folder.
FILE_MODE = 0o600
FOLDER_MODE = 0o700
MAX_LIMIT = 10**9

PRIORITY_BOUND = 2**31 - 1

Limit = Annotated[int, Meta(ge=0, le=MAX_LIMIT)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. A limit of None means that of the settings, 0 means no limit.

    `priority` is the lowest that its requests may have, and what they have that ask for none.
    """

    name: Annotated[str, Meta(pattern=rf"^{NAME.pattern}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    admin: bool = False
    max_concurrent: Limit | None = None
    tokens_per_minute: Limit | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_BOUND, le=PRIORITY_BOUND)] | None = None
    created: str = ""


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file."""

    keys: tuple[ApiKey, ...] = ()


def digest_of(key: bytes) -> bytes:
    """The SHA-256 of a key: 32 bytes."""
    return hashlib.sha256(key).digest()


def make_key(
    name: str,
    *,
    admin: bool = False,
    max_concurrent: int | None = None,
    tokens_per_minute: int | None = None,
    priority: int | None = None,
) -> tuple[str, ApiKey]:
    """A new key: its text, which is shown only once, and the record that is stored."""
    text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key = ApiKey(
        name=name,
        sha256=digest_of(text.encode()).hex(),
        admin=admin,
        max_concurrent=max_concurrent,
        tokens_per_minute=tokens_per_minute,
        priority=priority,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return text, key


def parse_keys(text: str, origin: str) -> tuple[ApiKey, ...]:
    """Parse a comma-separated list of KEY, NAME:KEY or NAME:admin:KEY.

    Raises:
        SettingsError: a key is invalid; the message has its number, never its text.
    """
    keys = []
    words = [word.strip() for word in text.split(",") if word.strip()]
    for number, word in enumerate(words, 1):
        *labels, secret = word.split(":")
        name = labels[0] if labels else f"key-{number}"
        if labels[1:] not in ([], [ADMIN_LABEL]) or not NAME.fullmatch(name):
            raise SettingsError(f"{origin}: key {number} is none of KEY, NAME:KEY, NAME:admin:KEY")
        if len(secret) < MIN_KEY_CHARS or not (secret.isascii() and secret.isprintable()):
            raise SettingsError(
                f"{origin}: key {number} is not {MIN_KEY_CHARS} or more printable ASCII characters"
            )
        sha256 = digest_of(secret.encode()).hex()
        keys.append(ApiKey(name=name, sha256=sha256, admin=len(labels) > 1))
    if not keys:
        raise SettingsError(f"{origin}: it is set, but contains no key")
    check_names(keys, origin)
    return tuple(keys)


def check_names(keys: Sequence[ApiKey], origin: str) -> None:
    """Refuse two keys with the same name: the log and `revoke` identify keys by name.

    Raises:
        SettingsError: two keys have the same name.
    """
    names = [key.name for key in keys]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"{origin}: two keys have the name {duplicate}")


# ---------------------------------------------------------------- the file


def keys_path(setting: str) -> Path | None:
    """The file that `keys_file` names; None if the setting is off.

    Raises:
        SettingsError: the home folder in the path is unknown.
    """
    try:
        return None if setting == OFF else Path(setting).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"keys_file: {setting}: {error}") from None


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        SettingsError: the file cannot be read, or its content is invalid.
    """
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=KeyList).keys
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not a list of keys: {excerpt(str(error))}") from None
    check_names(keys, str(path))
    return keys


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file atomically.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = msgspec.json.format(msgspec.json.encode(KeyList(tuple(keys))), indent=2)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def lock_keys(path: Path) -> Iterator[None]:
    """Create the folder of the file, and lock it against changes by other commands."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
