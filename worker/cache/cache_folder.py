"""The folder of the prompt cache's files: a subfolder of our own, and the space on its disk.

The folder that is configured may be anything that exists already, so its permissions and its
other files are left alone. The files contain prompts: the subfolder is the owner's alone.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path

from protocol.units import GIB, format_bytes

logger = logging.getLogger(__name__)

SUBFOLDER = "mlxd-prompt-cache"
FOLDER_MODE = 0o700
MAX_DEFAULT_RESERVE_BYTES = GIB
DEFAULT_RESERVE_SHARE = 0.05
RECOVERY_SHARE = 0.25
"""Of the reserve: so much more than the largest file that was refused must fit before files of all
sizes count as written again. Otherwise each change of the free space would be logged."""
MODEL_FOLDER = re.compile(r"[0-9a-f]{32}")


class FolderRefused(Exception):
    """The subfolder exists, and somebody else could read or change what is in it."""


class RoomState:
    """Whether the disk has no room for some files; a change is logged when it holds.

    Large files are refused while small ones are written, so that a file which fits does not end
    the shortage: what was refused must fit, and `RECOVERY_SHARE` of the reserve besides.
    """

    def __init__(self, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
        # The largest file since the shortage began; None without one.
        self._refused_bytes: int | None = None

    def update(self, needed: int, room: int) -> None:
        """Note that a file of `needed` bytes is to be written where all may have `room`."""
        if needed > room:
            if self._refused_bytes is None:
                what = f"no file of more than {format_bytes(room)}" if room > 0 else "nothing"
                self._log(f"{what} is written")
            self._refused_bytes = max(needed, self._refused_bytes or 0)
        elif self._refused_bytes is not None and room >= self._refused_bytes + self._margin_bytes:
            self._refused_bytes = None
            self._log("files of all sizes are written again")

    @property
    def _margin_bytes(self) -> float:
        return self._reserve_bytes * RECOVERY_SHARE

    def _log(self, text: str) -> None:
        reserve = format_bytes(self._reserve_bytes)
        logger.warning("prompt cache: %s; %s stay free on its disk", text, reserve)


def open_subfolder(folder: Path) -> Path:
    """Our subfolder of `folder`; both are created where they are missing.

    Raises:
        FolderRefused: the subfolder is not a folder that only its owner, this user, can use.
        OSError: the folder cannot be created or used.
    """
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    subfolder = folder / SUBFOLDER
    try:
        subfolder.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        pass
    else:
        # The process's umask may have removed more.
        subfolder.chmod(FOLDER_MODE)
    if reason := refusal_of(subfolder):
        raise FolderRefused(
            f"{subfolder} {reason}. mlxd leaves it as it is: remove or rename it, and mlxd creates "
            "one that only its user can open."
        )
    return subfolder


def refusal_of(subfolder: Path) -> str | None:
    """Why an existing subfolder cannot be ours; None if it can."""
    status = subfolder.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    mode = stat.S_IMODE(status.st_mode) & 0o777
    return None if mode == FOLDER_MODE else f"has the permissions {mode:04o}, not {FOLDER_MODE:04o}"


def find_earlier_folders(folder: Path) -> list[Path]:
    """Folders of models that earlier versions kept directly in the configured folder."""
    return [path for path in folder.iterdir() if MODEL_FOLDER.fullmatch(path.name)]


def free_bytes(folder: Path) -> int:
    """The free space of the file system for this user."""
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize


def default_reserve_bytes(folder: Path) -> int:
    """1 GiB or 5 % of the file system, whichever is less."""
    system = os.statvfs(folder)
    size = system.f_blocks * system.f_frsize
    return min(MAX_DEFAULT_RESERVE_BYTES, int(size * DEFAULT_RESERVE_SHARE))
