"""The file of hosts: mlx.launch's format, and who may have written it."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx._distributed_utils.common import Hostfile

from service.ranks.hosts_file import HostsFileError, read_hosts_file

TWO: list[dict[str, Any]] = [
    {"ssh": "mac1", "ips": ["10.0.0.1"], "rdma": [None, "rdma_en5"]},
    {"ssh": "me@mac2.local", "ips": ["10.0.0.2"], "rdma": ["rdma_en5", None]},
]


def write(folder: Path, content: Any, mode: int = 0o600) -> str:
    """A file with this content, as JSON unless it is bytes."""
    path = folder / "hosts.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return str(path)


def refusal(folder: Path, content: Any, mode: int = 0o600) -> str:
    """Why the file is refused."""
    path = write(folder, content, mode)
    with pytest.raises(HostsFileError) as caught:
        read_hosts_file(path)
    message = str(caught.value)
    assert message.startswith(path)
    assert "\n" not in message
    return message.removeprefix(path).removeprefix(": ")


@pytest.mark.parametrize(
    "content",
    [TWO, {"hosts": TWO}, {"backend": "jaccl", "envs": ["A=b=c", "B="], "hosts": TWO}],
    ids=["list", "object", "object with all"],
)
def test_it_is_read_as_mlx_launch_reads_it(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path, content)
    ours = read_hosts_file(path)
    # mlx (0.32.4) leaves the closing of the file to the end of its function.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        theirs = Hostfile.from_file(path)
    assert [(h.ssh, list(h.ips), list(h.rdma)) for h in ours.hosts] == [
        (h.ssh_hostname, h.ips, h.rdma) for h in theirs.hosts
    ]
    assert ours.backend == theirs.backend
    assert [f"{name}={value}" for name, value in ours.variables] == theirs.envs


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    assert f"others can write it (mode {mode:04o})" in refusal(tmp_path, TWO, mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    os.chown(path, 65534, 65534)
    with pytest.raises(HostsFileError, match="belongs to another user"):
        read_hosts_file(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("", "is not a file"), ("none", "cannot be read"), ("pipe", "not a file")):
        with pytest.raises(HostsFileError, match=words):
            read_hosts_file(str(tmp_path / name))


BAD: list[tuple[Any, str]] = [
    (b"[", "is not JSON"),
    (b"\xff", "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (7, "is neither a list"),
    ([], "hosts is not a list of 1 to 64"),
    ({}, "hosts is not a list of 1 to 64"),
    ({"hosts": TWO, "host": 1}, "host is unknown"),
    ({"hosts": TWO, "backend": 1}, "backend is not a string"),
    ({"hosts": TWO, "envs": "A=b"}, "envs: is not a list"),
    ({"hosts": TWO, "envs": ["A=b", "C"]}, "envs[1]: 'C' is not NAME=VALUE"),
    ({"hosts": TWO, "envs": ["A;x=b"]}, "envs[0]: 'A;x=b' is not NAME=VALUE"),
    ({"hosts": TWO, "envs": ["A=b\nrm"]}, "envs[0]: is not NAME=VALUE on one line"),
    ({"hosts": TWO, "envs": ["MLX_RANK=1"]}, "envs[0]: mlxd sets MLX_RANK itself"),
    (["mac1"], "hosts[0]: is not an object"),
    ([TWO[0], {"ips": []}], "hosts[1].ssh: is missing"),
    ([{**TWO[0], "port": 22}], "hosts[0]: port is unknown"),
    ([{"ssh": ""}], "hosts[0].ssh: '' is not a host"),
    ([{"ssh": "-oProxyCommand=x"}], "hosts[0].ssh: '-oProxyCommand=x' is not a host"),
    ([{"ssh": "a;x"}], "hosts[0].ssh: 'a;x' is not a host"),
    ([{"ssh": "a", "ips": "10.0.0.1"}], "hosts[0].ips: is not a list"),
    ([{"ssh": "a", "ips": ["10.0.0.1", 7]}], "hosts[0].ips[1]: 7 is not an address"),
    ([{"ssh": "a", "ips": ["10.0.0.1:22/"]}], "hosts[0].ips[0]: '10.0.0.1:22/' is not an address"),
    ([{**TWO[0], "rdma": [None]}, TWO[1]], "hosts[0].rdma: has 1 devices, not one for each of 2"),
    ([TWO[0], {**TWO[1], "rdma": [None, "x"]}], "hosts[1].rdma[1]: is not null"),
    ([{**TWO[0], "rdma": [None, "a b"]}, TWO[1]], "hosts[0].rdma[1]: 'a b' is not an RDMA device"),
]


@pytest.mark.parametrize(("content", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_entry_is_named_with_its_field(tmp_path: Path, content: Any, words: str) -> None:
    assert refusal(tmp_path, content).startswith(words)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ssh", "ips", "rdma", "hosts", "envs", "backend", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(content=JSON)
def test_any_other_content_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = write(tmp_path_factory.getbasetemp(), content)
    reasons: list[str] = []
    try:
        read_hosts_file(path)
    except HostsFileError as error:
        reasons.append(str(error))
    assert all(reason.startswith(path) for reason in reasons)
