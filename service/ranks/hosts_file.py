"""Reads the file of hosts, in the format of `mlx.launch`: a rank for each entry.

It is a list of entries, or an object with `hosts`, and perhaps `backend` and `envs`. What it
says is run by ssh, so nobody but the user and root may be able to write it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from service.errors import excerpt

MAX_FILE_BYTES = 1024 * 1024
MAX_HOSTS = 64
ENTRY_KEYS = ("ssh", "ips", "rdma")
OBJECT_KEYS = ("backend", "envs", "hosts")
# What ssh takes as a host, with its user; one that begins with a hyphen would be an option.
SSH_NAME = re.compile(r"[A-Za-z0-9_.:\[][A-Za-z0-9_.:@%+\[\]-]{0,253}")
ADDRESS = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")
DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# mlxd sets these itself, as the backend needs them.
OWN_VARIABLES = re.compile(
    r"MLX_(RANK|HOSTFILE|WORLD_SIZE|IBV_DEVICES|JACCL_\w+)|NCCL_(HOST_IP|PORT)"
)

Devices = tuple[str | tuple[str, ...] | None, ...]


class HostsFileError(ValueError):
    """The file cannot be used; the message names the file, the entry and its field."""


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One host: what ssh calls it, its addresses, and its RDMA devices to each host."""

    ssh: str
    ips: tuple[str, ...]
    rdma: Devices = ()


@dataclass(frozen=True, slots=True)
class HostsFile:
    """What a file says. `variables` are of all ranks; `backend` is empty if it names none."""

    path: str
    hosts: tuple[HostEntry, ...]
    backend: str = ""
    variables: tuple[tuple[str, str], ...] = ()


def read_hosts_file(path: str) -> HostsFile:
    """Read and check a file of hosts.

    Raises:
        HostsFileError: it cannot be read, others could have written it, or an entry is bad.
    """
    text = read_own_file(Path(path))
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostsFileError(f"{path}: is not JSON: {excerpt(str(error), 200)}") from None
    if isinstance(content, list):
        content = {"hosts": content}
    if not isinstance(content, dict):
        raise HostsFileError(f"{path}: is neither a list of hosts nor an object with hosts")
    refuse_other_keys(content, OBJECT_KEYS, path)
    entries = content.get("hosts")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_HOSTS:
        raise HostsFileError(f"{path}: hosts is not a list of 1 to {MAX_HOSTS} hosts")
    backend = content.get("backend", "")
    if not isinstance(backend, str):
        raise HostsFileError(f"{path}: backend is not a string")
    return HostsFile(
        path=path,
        hosts=tuple(
            read_entry(entry, f"{path}: hosts[{index}]", index, len(entries))
            for index, entry in enumerate(entries)
        ),
        backend=backend,
        variables=read_variables(content.get("envs", []), path),
    )


def read_own_file(path: Path) -> bytes:
    """The content of a file that only this user and root can write.

    Raises:
        HostsFileError: it cannot be read, or others can write it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            refuse_foreign_file(os.fstat(descriptor), path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                text = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostsFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise HostsFileError(f"{path}: has more than {MAX_FILE_BYTES} bytes")
    return text


def refuse_foreign_file(status: os.stat_result, path: Path) -> None:
    """Refuse what is no file, and a file that another user owns or can write.

    Raises:
        HostsFileError: it is so.
    """
    if not stat.S_ISREG(status.st_mode):
        raise HostsFileError(f"{path}: is not a file")
    if status.st_uid not in (os.geteuid(), 0):
        raise HostsFileError(
            f"{path}: belongs to another user (id {status.st_uid}); "
            "it decides what ssh runs, so it must be yours or root's"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise HostsFileError(
            f"{path}: others can write it (mode {mode:04o}); "
            f"it decides what ssh runs: chmod go-w {path}"
        )


def read_entry(entry: Any, place: str, index: int, count: int) -> HostEntry:
    """One entry of `hosts`, which is at `place`.

    Raises:
        HostsFileError: one of its fields is bad.
    """
    if not isinstance(entry, dict):
        raise HostsFileError(f"{place}: is not an object")
    refuse_other_keys(entry, ENTRY_KEYS, place)
    if "ssh" not in entry:
        raise HostsFileError(f"{place}.ssh: is missing")
    return HostEntry(
        ssh=read_word(entry["ssh"], SSH_NAME, f"{place}.ssh", "a host as ssh takes it"),
        ips=tuple(
            read_word(address, ADDRESS, f"{place}.ips[{number}]", "an address or a host name")
            for number, address in enumerate(read_list(entry.get("ips", []), f"{place}.ips"))
        ),
        rdma=read_devices(entry.get("rdma", []), f"{place}.rdma", index, count),
    )


def read_devices(value: Any, place: str, index: int, count: int) -> Devices:
    """The RDMA devices of host `index` to each of `count` hosts, None to itself; or none.

    Raises:
        HostsFileError: it is no such list.
    """
    devices = read_list(value, place)
    if not devices:
        return ()
    if len(devices) != count:
        raise HostsFileError(f"{place}: has {len(devices)} devices, not one for each of {count}")
    if devices[index] is not None:
        raise HostsFileError(f"{place}[{index}]: is not null: it is the host itself")
    return tuple(read_device(device, f"{place}[{number}]") for number, device in enumerate(devices))


def read_device(value: Any, place: str) -> str | tuple[str, ...] | None:
    """One RDMA device, several, or none.

    Raises:
        HostsFileError: it is none of that.
    """
    if value is None:
        return None
    if isinstance(value, list) and value:
        return tuple(read_word(name, DEVICE, place, "an RDMA device") for name in value)
    return read_word(value, DEVICE, place, "an RDMA device")


def read_variables(value: Any, path: str) -> tuple[tuple[str, str], ...]:
    """The variables that `envs` sets, each as NAME=VALUE.

    Raises:
        HostsFileError: one is not, or mlxd sets it itself.
    """
    variables = []
    for number, text in enumerate(read_list(value, f"{path}: envs")):
        place = f"{path}: envs[{number}]"
        if not isinstance(text, str) or not text.replace("\t", " ").isprintable():
            raise HostsFileError(f"{place}: is not NAME=VALUE on one line")
        name, separator, content = text.partition("=")
        if not separator or not VARIABLE.fullmatch(name):
            raise HostsFileError(f"{place}: {excerpt(repr(text), 100)} is not NAME=VALUE")
        if OWN_VARIABLES.fullmatch(name):
            raise HostsFileError(f"{place}: mlxd sets {name} itself")
        variables.append((name, content))
    return tuple(variables)


def read_list(value: Any, place: str) -> list[Any]:
    """A list.

    Raises:
        HostsFileError: it is none.
    """
    if not isinstance(value, list):
        raise HostsFileError(f"{place}: is not a list")
    return value


def read_word(value: Any, pattern: re.Pattern[str], place: str, what: str) -> str:
    """A string that matches the whole pattern.

    Raises:
        HostsFileError: it is none.
    """
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise HostsFileError(f"{place}: {excerpt(repr(value), 100)} is not {what}")
    return value


def refuse_other_keys(content: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    """Refuse keys that mlx.launch's format does not have.

    Raises:
        HostsFileError: there is one.
    """
    for key in content:
        if key not in known:
            name = excerpt(key, 100)
            raise HostsFileError(f"{place}: {name} is unknown; known are {', '.join(known)}")
