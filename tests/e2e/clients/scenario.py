"""Runs a client's scenario against a service, and says what was wrong."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.clients.catalogue import FOLDER, NODE, NPM, RIGHT, Client
from tests.e2e.daemon import Daemon, running

SCRIPTS = FOLDER / "scripts"
DEFAULT_ENVIRONMENTS = FOLDER.parents[2] / ".venv/environments"
# The coding agents start three times each, and the proxy once, on a machine that may be busy.
TIMEOUT_S = 900
# The end of a long output that says what went wrong.
SHOWN_CHARS = 4000
REFUSAL = "404 model_not_found"
CONFIG = """
[[models]]
id = "mlxd-demo"
sampling = { temperature = 0 }

# The built-in model again: its vectors mean little, and are vectors.
[[models]]
id = "embedder"
kind = "embedding"
pooling = "mean"
"""

# No client asks anyone but the service: no telemetry, no look for a newer version, no hub.
QUIET = {
    "AI_SDK_LOG_WARNINGS": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "NO_COLOR": "1",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was wrong, if anything, and how long it took."""

    faults: tuple[str, ...]
    seconds: float


@contextmanager
def service() -> Iterator[Daemon]:
    """A service of the built-in model whose answers do not vary where a client says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.toml")
        config.write_text(CONFIG)
        with running(flags=("--config", str(config))) as daemon:
            yield daemon


def is_installed(client: Client, environments: Path) -> bool:
    """Whether `make clients` has made what it needs."""
    needed = [environments / client.environment]
    if client.environment == NPM:
        needed = [environments / NPM / "node_modules" / package for package in client.packages]
        needed.append(environments / NODE / "bin/node")
    return all(path.exists() for path in needed)


def run(client: Client, environments: Path, daemon: Daemon) -> Outcome:
    """Run it in an empty home folder, without the user's settings."""
    started = time.monotonic()
    before = len(daemon.lines)
    with tempfile.TemporaryDirectory() as home:
        ended = subprocess.run(
            [*command(client, environments), f"{daemon.url}/v1"],
            cwd=home,
            env=environ(environments, home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    if ended.returncode != 0:
        faults = [f"it ended with {ended.returncode}: {ended.stderr[-SHOWN_CHARS:]}"]
    else:
        faults = wrong(client, ended.stdout)
        daemon.wait_for(lambda: bool(refusals(daemon, before)))
    faults += [
        f"the service refused: {refusal}"
        for refusal in refusals(daemon, before)
        if refusal != REFUSAL
    ]
    return Outcome(tuple(faults), time.monotonic() - started)


def command(client: Client, environments: Path) -> list[Path]:
    """The program of its environment, and its script."""
    if client.environment == NPM:
        program = environments / NODE / "bin/node"
    else:
        program = environments / client.environment / "bin/python"
    return [program, SCRIPTS / client.script]


def environ(environments: Path, home: str) -> dict[str, str]:
    """What a client is told of the machine."""
    paths = (str(environments / NODE / "bin"), os.environ["PATH"])
    modules = environments / NPM / "node_modules"
    return {**QUIET, "HOME": home, "PATH": os.pathsep.join(paths), "NODE_PATH": str(modules)}


def wrong(client: Client, output: str) -> list[str]:
    """What the last line of the output, a report, has wrong."""
    report = json.loads(output.splitlines()[-1])
    faults = [
        f"{name} is {report.get(name)!r}"
        for name in client.reports
        if name not in report or not RIGHT[name](report[name])
    ]
    if report.get("plain", "") != report.get("streamed", ""):
        faults.append(f"the stream differs: {report['streamed']!r}, {report['plain']!r}")
    if report["error"] != client.error:
        faults.append(f"a refusal is {report['error']}, not {client.error}")
    return faults


def refusals(daemon: Daemon, before: int) -> list[str]:
    """The status and code of each request that failed, by the log's lines after so many."""
    logged = [json.loads(line) for line in daemon.lines[before:] if line.startswith('{"time"')]
    requests = [line["request"] for line in logged if "request" in line]
    return [
        f"{request['status']} {request.get('error', request['path'])}"
        for request in requests
        if request["status"] >= 400
    ]
