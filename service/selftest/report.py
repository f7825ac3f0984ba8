"""The report of a selftest: its figures without anything that says whose machine it is."""

from __future__ import annotations

import getpass
import platform
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from protocol.selftest import Figure, is_listed

FORMAT = 1
STATE_VARIABLE = "XDG_STATE_HOME"
# Shorter names are removed only as words of their own: a user `mac` leaves `macOS` and `Mac16,8`.
MIN_NAME_CHARS = 6
MAX_TEXT_CHARS = 400
# An absolute path, in quotes or not; one that begins with the home folder's sign, too.
PATH = re.compile(r"(?<![\w.:/])~?(?:/[\w.@+~%-]+)+/?")
REMOVED = "…"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The file. Its figures are those that `protocol/selftest.py` lists."""

    format: int
    mlxd: str
    date: str
    quick: bool
    failed: int
    figures: list[Figure]


def make_report(figures: Iterable[Figure], *, quick: bool, names: Iterable[str]) -> Report:
    """The report of these figures; `names` are removed from their texts, and so are paths."""
    names = list(names)
    listed = [conceal(figure, names) for figure in figures if is_listed(figure)]
    return Report(
        format=FORMAT,
        mlxd=version("mlxd"),
        date=datetime.now(UTC).date().isoformat(),
        quick=quick,
        failed=sum(figure.verdict == "failed" for figure in listed),
        figures=listed,
    )


def conceal(figure: Figure, names: Iterable[str]) -> Figure:
    """The figure without paths and these names in its texts."""
    value = figure.value
    if isinstance(value, str):
        value = conceal_text(value, names)
    return msgspec.structs.replace(figure, value=value, note=conceal_text(figure.note, names))


def conceal_text(text: str, names: Iterable[str]) -> str:
    """The text without paths and these names, however they are written."""
    text = PATH.sub(REMOVED, text)
    for name in sorted(filter(None, names), key=len, reverse=True):
        pattern = re.escape(name)
        if len(name) < MIN_NAME_CHARS:
            pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
        text = re.sub(pattern, REMOVED, text, flags=re.IGNORECASE)
    return text[:MAX_TEXT_CHARS]


def names_of_machine() -> list[str]:
    """What says whose machine this is: its host names, the user, the home folder."""
    hosts = {socket.gethostname(), platform.node()}
    labels = {host.partition(".")[0] for host in hosts}
    home = str(Path.home())
    return [*hosts, *labels, home, Path(home).name, getpass.getuser()]


def default_path(environ: Mapping[str, str], home: Path, *, on_macos: bool | None = None) -> Path:
    """Where a report is written: beside the logs on macOS, else in the user's folder of states."""
    on_macos = sys.platform == "darwin" if on_macos is None else on_macos
    name = f"selftest-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    if on_macos:
        return home / "Library" / "Logs" / "mlxd" / name
    state = environ.get(STATE_VARIABLE)
    return (Path(state) if state else home / ".local" / "state") / "mlxd" / name


def write_report(report: Report, path: Path) -> None:
    """Write the file, and make its folder.

    Raises:
        OSError: that is not possible.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
