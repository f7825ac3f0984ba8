"""The table of clients, versions and verdicts in service/README.md."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.clients.catalogue import FOLDER, NPM, Client
from tests.e2e.clients.scenario import Outcome

README = FOLDER.parents[2] / "service/README.md"
START, END = (
    "<!-- clients: made by python -m tests.e2e.clients --write -->",
    "<!-- end of clients -->",
)
HEAD = "| client | version | verdict |\n|---|---|---|"
WORKS, FAILS = "works", "fails"
# Prints the versions of the packages that are its arguments.
VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


def installed(client: Client, environments: Path) -> dict[str, str]:
    """The versions of its packages in these environments."""
    if client.environment == NPM:
        folder = environments / NPM / "node_modules"
        files = [folder / package / "package.json" for package in client.packages]
        return {
            package: json.loads(file.read_text())["version"]
            for package, file in zip(client.packages, files, strict=True)
        }
    python = environments / client.environment / "bin/python"
    told = subprocess.run(
        [python, "-c", VERSIONS, *client.packages], capture_output=True, text=True, check=True
    )
    return dict(zip(client.packages, told.stdout.split(), strict=True))


def row(client: Client, versions: dict[str, str], outcome: Outcome) -> str:
    """A client's row."""
    return as_row(client, versions, FAILS if outcome.faults else WORKS)


def as_row(client: Client, versions: dict[str, str], verdict: str) -> str:
    """A row with this verdict."""
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"| {client.name} | {packages} | {verdict} |"


def render(rows: Sequence[str]) -> str:
    """The table with its markers."""
    return "\n".join((START, HEAD, *rows, END))


def write(rows: Sequence[str]) -> None:
    """Put the table in the place of the last one."""
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + render(rows) + rest.partition(END)[2])


def written() -> list[str]:
    """The rows of the last table."""
    inside = README.read_text().partition(START)[2].partition(END)[0]
    return inside.strip().splitlines()[2:]
