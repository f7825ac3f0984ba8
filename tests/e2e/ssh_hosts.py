"""Hosts for tests: files of them, and programs named ssh that reach this machine as another."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.daemon import free_port
from tests.e2e.system_programs import find_program
from tests.waiting import HANG_S, wait_for

FIRST, SECOND = "first-host", "second-host"
# It runs what ssh would run on a host, here, in an environment that is not the service's.
LOCAL_SSH = """#!/bin/sh
for word; do command=$word; done
printf '%s\\n' "$@" >> "{record}"
exec env -i HOME="$HOME" PATH=/usr/bin:/bin /bin/sh -c "$command"
"""
FAILING_SSH = """#!/bin/sh
echo "{words}" >&2
exit {status}
"""


def write_hosts(folder: Path, *names: str, **others: Any) -> Path:
    """A file of hosts that are all this machine, under these names."""
    path = folder / "hosts.json"
    hosts = [{"ssh": name, "ips": ["127.0.0.1"]} for name in names]
    path.write_text(json.dumps({"hosts": hosts, **others}))
    path.chmod(0o600)
    return path


def ssh_in_front(folder: Path, script: str) -> dict[str, str]:
    """The variables with which a program finds this script as ssh."""
    path = folder / "bin" / "ssh"
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o700)
    return {"PATH": f"{path.parent}:{os.environ['PATH']}"}


@dataclass(frozen=True, slots=True)
class SshHost:
    """This machine as another host: its sshd, and the variables with which ssh finds it.

    ssh knows it as `SECOND`.
    """

    folder: Path
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes]

    def ranks(self) -> list[psutil.Process]:
        """The ranks that run there."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.cmdline()[-2:] == ["-m", "worker.ranks"]:
                    found.append(process)
        return found


@contextmanager
def sshd(folder: Path) -> Iterator[SshHost]:
    """sshd of this user on a free port of loopback, until the end of the block."""
    program, port = find_program("sshd"), free_port()
    host_key, user_key = make_key(folder / "host_key"), make_key(folder / "user_key")
    authorized = folder / "authorized_keys"
    shutil.copy(user_key.with_suffix(".pub"), authorized)
    (folder / "known_hosts").write_text(
        f"[127.0.0.1]:{port} {host_key.with_suffix('.pub').read_text()}"
    )
    configuration = folder / "sshd_config"
    configuration.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
    )
    client = folder / "ssh_config"
    client.write_text(
        f"Host {SECOND}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {user_key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n"
    )
    if os.geteuid() == 0:
        # As root it separates privileges by a folder that the system makes where it is started.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = folder / "sshd.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(configuration)], stdout=output, stderr=output
        )
    try:
        wait_for(lambda: "listening" in log.read_text(), log.read_text)
        real = shutil.which("ssh")
        script = f'#!/bin/sh\nexec "{real}" -F "{client}" "$@"\n'
        yield SshHost(folder, ssh_in_front(folder, script), process)
    finally:
        end_all(process)


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait(HANG_S)


def make_key(path: Path) -> Path:
    """A new key for ssh, without a passphrase."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    return path
