"""The secret key of this installation: made at its first use, and kept in a file of the user's."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

from service.config.api_keys import FILE_MODE, FOLDER_MODE, OFF

logger = logging.getLogger(__name__)

KEY_BYTES = 32


def load_installation_key(setting: str) -> bytes:
    """The key in the file that the setting names, 32 bytes; it is made if there is no file.

    Where the file cannot be used, and with `off`, the key lasts until the service ends.
    """
    if setting == OFF:
        return secrets.token_bytes(KEY_BYTES)
    try:
        path = Path(setting).expanduser()
        return read_key(path) or make_key(path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(
            "installation_key_file: %s: %s: earlier signatures of thinking are not known after a "
            "restart",
            setting,
            reason,
        )
        return secrets.token_bytes(KEY_BYTES)


def read_key(path: Path) -> bytes | None:
    """The key in a file; None if there is no file.

    Raises:
        OSError: it cannot be read, or is no key.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        key = file.read(KEY_BYTES + 1)
        if len(key) != KEY_BYTES:
            raise OSError("it is not a key; remove it to have one made")
        if os.fstat(file.fileno()).st_mode & 0o077:
            os.fchmod(file.fileno(), FILE_MODE)
    return key


def make_key(path: Path) -> bytes:
    """Create the file with a new key atomically; returns the key of the first process to do so.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Unlike a renamed one, a link does not replace the file of another service.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    key = read_key(path)
    if key is None:
        raise OSError("the file was removed")
    return key
