"""Two real services, the replicas a and b, and nginx in front of them with the shipped file."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, free_port
from tests.e2e.system_programs import find_program
from tests.sources import ROOT
from tests.waiting import HANG_S, wait_for

CONFIGURATION = ROOT / "deploy" / "nginx" / "mlxd.conf"
# Of no other test, so that a replica finds its port free when it starts again.
PORTS = range(5_000, 10_000)
SHIPPED_PORTS = {"a": 8001, "b": 8002}
LISTEN = "listen 8080;"
HEALTH_TIMEOUT = "proxy_read_timeout 2s;"
# A replica that is merely slow on a busy machine counts as healthy.
PATIENT = "proxy_read_timeout 120s;"
TEMPORARY = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
REPLICA = "x-mlxd-replica"
FLAGS = ("--keys-file", "off", "--keep-alive-s", "0.1", "--drain-s", "600", "--stall-s", "3600")


def place(ports: Mapping[str, int], listen: int, *, patient: bool) -> str:
    """The shipped file for other ports."""
    text = CONFIGURATION.read_text()
    for tag, shipped in SHIPPED_PORTS.items():
        text, count = re.subn(rf"\b127\.0\.0\.1:{shipped}\b", f"127.0.0.1:{ports[tag]}", text)
        assert count
    assert text.count(LISTEN) == 1
    assert HEALTH_TIMEOUT in text
    text = text.replace(LISTEN, f"listen 127.0.0.1:{listen};")
    return text.replace(HEALTH_TIMEOUT, PATIENT) if patient else text


def main_file(folder: Path, included: Path) -> str:
    """What surrounds the shipped file, with nothing of the system's."""
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "\n".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
    return f"""
        {user} daemon off; worker_processes 2; pid {folder}/pid; error_log stderr info;
        events {{ worker_connections 512; }}
        http {{ access_log off; {paths} include {included}; }}
        """


@contextmanager
def nginx(folder: Path, ports: Mapping[str, int], *, patient: bool = True) -> Iterator[str]:
    """nginx with the shipped file, until the end of the block; its URL."""
    program, listen = find_program("nginx"), free_port()
    folder.mkdir()
    included, main, log = folder / "mlxd.conf", folder / "nginx.conf", folder / "log"
    included.write_text(place(ports, listen, patient=patient))
    main.write_text(main_file(folder, included))
    with log.open("w") as output:
        process = subprocess.Popen(
            [program, "-p", folder, "-c", main, "-e", "stderr"], stdout=output, stderr=output
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{listen}/"), log.read_text)
        yield f"http://127.0.0.1:{listen}"
    finally:
        process.terminate()
        process.wait(HANG_S)


def answers(url: str) -> bool:
    """Whether somebody listens there."""
    try:
        plain_http.get(url)
    except httpx.ConnectError:
        return False
    return True


class Fleet:
    """The replicas by tag."""

    def __init__(self) -> None:
        self.replicas: dict[str, Daemon] = {}

    @property
    def ports(self) -> dict[str, int]:
        """Their ports, which they keep."""
        return {tag: replica.port for tag, replica in self.replicas.items()}

    def start(self, tag: str) -> None:
        """Start a replica, in the place of the one that had the tag."""
        old = self.replicas.get(tag)
        port = free_port(PORTS) if old is None else old.port
        self.replicas[tag] = Daemon([*FLAGS, "--replica-tag", tag], {}, port=port)

    def restart(self, tag: str) -> None:
        """Start a replica that has ended again, and wait until it serves."""
        self.start(tag)
        self.replicas[tag].wait_serving()

    def kill(self, tag: str) -> None:
        """Kill a replica at once, if it has not ended: the service and its worker."""
        process = self.replicas[tag].process
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self.replicas[tag].wait()

    def worker(self, tag: str) -> int:
        """The process of a replica's worker."""
        pid: int = self.replicas[tag].health()["worker"]["pid"]
        return pid

    def in_flight(self, tag: str) -> int:
        """How many requests a replica has."""
        requests = self.replicas[tag].health()["requests"]
        count: int = requests["running"] + requests["waiting"]
        return count


@contextmanager
def fleet() -> Iterator[Fleet]:
    """Two replicas that serve."""
    made = Fleet()
    with ExitStack() as stack:
        for tag in SHIPPED_PORTS:
            made.start(tag)
            stack.callback(made.kill, tag)
        for replica in made.replicas.values():
            replica.wait_serving()
        yield made


def find_session(http: httpx.Client, tag: str, number: int = 0) -> str:
    """A session of this replica; each `number` is another one."""
    for index in range(1000):
        session = f"session-{number}-{index}"
        reply = http.get("/v1/models", headers={"x-session-id": session})
        if reply.headers[REPLICA] == tag:
            return session
    pytest.fail(f"no session of 1000 is the replica {tag}'s")
