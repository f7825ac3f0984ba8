"""Another host: a network namespace, with a cable (a veth pair) to this one that can be cut."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.e2e.daemon import Daemon, running

NAME = "other-host"
# As ssh, whose last word is the command.
SSH = """#!/bin/sh
for command; do :; done
exec ip netns exec {name} /bin/sh -c "$command"
"""
# A cable that is pulled out; frames of one direction that nobody takes; connections that the
# system resets.
Cut = Literal["link down", "one way", "reset"]
NOBODYS_ADDRESS = "02:00:00:00:00:99"


@dataclass(frozen=True)
class NamespaceHost:
    """The namespace `name`, whose device has the same name."""

    name: str
    near: str
    far: str

    def cut(self, how: Cut) -> None:
        """Cut it off."""
        match how:
            case "link down":
                self._inside("ip", "link", "set", self.name, "down")
            case "one way":
                self._neighbour("replace", "lladdr", NOBODYS_ADDRESS, "nud", "permanent")
            case "reset":
                call("ss", "--kill", "dst", self.far)

    def mend(self, how: Cut) -> None:
        """Undo that."""
        match how:
            case "link down":
                self._inside("ip", "link", "set", self.name, "up")
            case "one way":
                self._neighbour("delete")

    def _neighbour(self, verb: str, *words: str) -> None:
        self._inside("ip", "neighbour", verb, self.near, "dev", self.name, *words)

    def _inside(self, *words: str) -> None:
        call("ip", "netns", "exec", self.name, *words)


@contextmanager
def namespace_host() -> Iterator[NamespaceHost]:
    """A host of its own; the test is skipped where this user cannot make one."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root of a Linux can make network namespaces")
    chance = random.SystemRandom()
    number, net = chance.randrange(1 << 20), f"10.{chance.randrange(64, 250)}"
    middle = chance.randrange(1, 250)
    host = NamespaceHost(f"mlxd{number:05x}", f"{net}.{middle}.1", f"{net}.{middle}.2")
    near_device = f"{host.name}n"
    try:
        call("ip", "netns", "add", host.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    try:
        pair = ("peer", "name", host.name, "netns", host.name)
        call("ip", "link", "add", near_device, "type", "veth", *pair)
        call("ip", "address", "add", f"{host.near}/24", "dev", near_device)
        call("ip", "link", "set", near_device, "up")
        inside = ("ip", "-n", host.name)
        call(*inside, "address", "add", f"{host.far}/24", "dev", host.name)
        call(*inside, "link", "set", "lo", "up")
        call(*inside, "link", "set", host.name, "up")
        yield host
    finally:
        subprocess.run(["ip", "link", "delete", near_device], check=False, capture_output=True)
        call("ip", "netns", "delete", host.name)


@contextmanager
def running_apart(
    host: NamespaceHost,
    model: Path,
    folder: Path,
    flags: Sequence[str] = (),
    program: str = "service",
) -> Iterator[Daemon]:
    """A service of two ranks, the second of them on the other host."""
    hosts = [{"ssh": "localhost", "ips": [host.near]}, {"ssh": NAME, "ips": [host.far]}]
    file, ssh = folder / "hosts.json", folder / "ssh"
    file.write_text(json.dumps(hosts))
    file.chmod(0o600)
    ssh.write_text(SSH.format(name=host.name))
    ssh.chmod(0o700)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    own = ["--hosts", str(file), *flags]
    with running(model, flags=own, environ={"PATH": path}, program=program) as daemon:
        yield daemon


def call(*words: str) -> None:
    """Run a command.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run(words, check=True, capture_output=True, text=True)
