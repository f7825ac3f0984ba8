"""Starts a rank on another host by ssh.

What ssh runs there is always the same: a shell that reads one line, and runs it. That line, and
then the secret, come by standard input. So no path of the settings is ever read by the login
shell of the host, whichever that is, and nothing of it is seen in a list of processes.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from service.ranks.layout import RankLayout, RankPlace

# -T: no terminal, which would echo the secret. BatchMode: no questions, neither for a password
# nor for a host's key. The rest is the user's configuration of ssh.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "--")
# `read` takes no byte beyond the line, so that the rank finds the next one.
READ_AND_RUN = """exec /bin/sh -c 'IFS= read -r line && eval "$line"'"""
SSH_FAILED, NO_PROGRAM, NO_FOLDER = 255, 127, 97
CODE_FOLDER = str(Path(__file__).parents[2])
# The libraries that this machine's ranks are preloaded with, by their names.
SHARED_VARIABLES = ("LD_PRELOAD", "OPENBLAS_NUM_THREADS")
MODULE_MISSING = "No module named"


def ssh_command(place: RankPlace) -> list[str]:
    """The command that starts a rank on its host; the line of `shell_line` is for its input."""
    assert place.ssh is not None
    return [*SSH, place.ssh, READ_AND_RUN]


def shell_line(layout: RankLayout, environ: Mapping[str, str]) -> bytes:
    """What the shell on another host runs, as one line: a rank, in its folder.

    Without settings it is this process's own Python and code, at the same paths.
    """
    python, folder = layout.python or sys.executable, layout.folder
    code = folder or ("" if layout.python else CODE_FOLDER)
    shared = ((name, environ[name]) for name in SHARED_VARIABLES if name in environ)
    variables = dict([*shared, *layout.variables])
    if code:
        variables.setdefault("PYTHONPATH", code)
    parts = [f"cd -- {shlex.quote(folder)} || exit {NO_FOLDER}"] if folder else []
    parts += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    # -P: do not import a folder named `worker` from the current directory.
    parts.append(f"exec {shlex.quote(python)} -P -m worker.ranks")
    return "; ".join(parts).encode() + b"\n"


def explain_exit(status: int, last_words: str, layout: RankLayout, place: RankPlace) -> str:
    """What the exit of ssh, or of the rank there, most likely means; empty if that is unknown."""
    python = layout.python or sys.executable
    if status == SSH_FAILED:
        return f"ssh cannot reach {place.ssh}, is refused there, or has lost the rank"
    if status == NO_FOLDER:
        return f"there is no folder {layout.folder} (ranks_cwd)"
    if status == NO_PROGRAM:
        return f"there is no {python} (ranks_python)"
    if MODULE_MISSING in last_words:
        return f"{python} there has no mlxd, or not all that it needs"
    return ""
