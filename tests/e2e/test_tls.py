"""TLS: what is served, and that slow handshakes do not block other clients."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.certificates import make_pair
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.wire import GET_HEALTH, connect, post, read_answer, read_end

MAX_CONNECTIONS = 20
# The listener, the worker's pipe, and the pair by which signals reach the event loop.
SOCKETS_AT_REST = 4
FLAGS = ["--max-connections", str(MAX_CONNECTIONS), "--write-stall-s", "1"]

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="no /proc to count another process's descriptors"
)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    return make_pair(tmp_path_factory.mktemp("tls"))


def flags_of(pair: tuple[Path, Path]) -> list[str]:
    return ["--tls-cert", str(pair[0]), "--tls-key", str(pair[1])]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def own(
    request: pytest.FixtureRequest,
    pair: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Daemon]:
    """A service with TLS and narrow limits, on each event loop."""
    environ = {}
    if request.param == "asyncio":
        folder = tmp_path_factory.mktemp("no-uvloop")
        (folder / "uvloop.py").write_text("raise ImportError")
        environ["PYTHONPATH"] = str(folder)
    with faulty(*FLAGS, *flags_of(pair), environ=environ, wait=False) as daemon:
        daemon.wait_line("curl")
        yield daemon


@pytest.fixture
def trust(pair: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair[0]))


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Connections that stay open until the test's end."""
    with ExitStack() as stack:
        yield stack


@contextmanager
def encrypted(
    daemon: Daemon, trust: ssl.SSLContext, *, deaf: bool = False
) -> Iterator[ssl.SSLSocket]:
    with (
        connect(daemon, deaf=deaf) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        yield client


def url(daemon: Daemon) -> str:
    return f"https://127.0.0.1:{daemon.port}"


def health(daemon: Daemon, trust: ssl.SSLContext) -> int:
    return httpx.get(f"{url(daemon)}/health", verify=trust).status_code


def test_clients_are_served_and_the_start_screen_says_where(
    own: Daemon, trust: ssl.SSLContext
) -> None:
    assert f"{url(own)}/v1" in own.output
    with (
        openai.DefaultHttpxClient(verify=trust) as http,
        openai.OpenAI(base_url=f"{url(own)}/v1", api_key="none", http_client=http) as client,
    ):
        stream = client.completions.create(model="fake", prompt="x", max_tokens=50, stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        whole = client.completions.create(model="fake", prompt="x", max_tokens=50)
    assert streamed == whole.choices[0].text != ""


def test_one_connection_serves_many_requests_and_speaks_nothing_but_http_1_1(
    own: Daemon, trust: ssl.SSLContext
) -> None:
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with encrypted(own, trust) as client:
        assert client.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            client.sendall(GET_HEALTH)
            assert read_answer(client)[0] == 200


def test_a_client_that_is_not_given_the_certificate_refuses_us(own: Daemon) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{url(own)}/health")


def test_an_old_version_is_refused(own: Daemon, trust: ssl.SSLContext) -> None:
    trust.minimum_version = ssl.TLSVersion.TLSv1_2
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    assert health(own, trust) == 200
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        health(own, trust)


@pytest.mark.parametrize("sent", [GET_HEALTH, b"\x16\x03\x01", b"\x00" * 1000, b""])
def test_who_speaks_no_tls_learns_nothing(own: Daemon, sent: bytes) -> None:
    with connect(own) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in read_end(client)


def test_many_who_do_not_finish_their_handshake_keep_nobody_out(
    own: Daemon, clients: ExitStack, trust: ssl.SSLContext
) -> None:
    for _ in range(5 * MAX_CONNECTIONS):
        clients.enter_context(connect(own))
    assert health(own, trust) == 200
    assert "refusing new ones" not in own.output


@needs_proc
def test_whatever_they_did_nothing_is_left_of_them(own: Daemon, trust: ssl.SSLContext) -> None:
    for sent in (b"", b"\x16\x03\x01", GET_HEALTH):
        with connect(own) as client:
            client.sendall(sent)
    with encrypted(own, trust) as client:
        client.sendall(GET_HEALTH[:9])
    silent = connect(own)
    # After the time for a handshake it is closed by the service.
    assert read_end(silent) == b""
    silent.close()
    own.wait_for(
        lambda: sum(name.startswith("socket:") for name in own.descriptors()) == SOCKETS_AT_REST
    )


def test_a_client_that_does_not_read_is_cut_off(own: Daemon, trust: ssl.SSLContext) -> None:
    asked = {"model": "fake", "prompt": ["x"] * 16, "max_tokens": 100_000, "stream": True}
    with encrypted(own, trust, deaf=True) as deaf:
        deaf.sendall(post(asked))
        own.wait_line("disconnecting clients that do not read")
        assert health(own, trust) == 200


def test_after_all_that_no_traceback_was_written(own: Daemon, trust: ssl.SSLContext) -> None:
    assert health(own, trust) == 200
    assert "Traceback" not in own.output


def test_a_stop_ends_it_in_time_whoever_is_connected(
    pair: tuple[Path, Path], trust: ssl.SSLContext, clients: ExitStack
) -> None:
    with faulty("--drain-s", "3600", *flags_of(pair), wait=False) as daemon:
        daemon.wait_line("curl")
        clients.enter_context(connect(daemon))
        idle = clients.enter_context(encrypted(daemon, trust))
        idle.sendall(GET_HEALTH)
        assert read_answer(idle)[0] == 200
        daemon.process.terminate()
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.output


def test_a_file_that_cannot_be_used_ends_the_start(pair: tuple[Path, Path]) -> None:
    with faulty("--tls-cert", str(pair[0]), wait=False) as daemon:
        assert daemon.wait() != 0
        assert "one is set without the other" in daemon.output
