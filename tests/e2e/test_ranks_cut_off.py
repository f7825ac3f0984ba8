"""A rank whose host is cut off is a pause, and an end in words where the host stays away."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.network_namespace import Cut, NamespaceHost, namespace_host, running_apart
from tests.e2e.ranked import answer_all, answer_during, make_requests
from tests.waiting import HANG_S, wait_for

pytestmark = pytest.mark.long

# A rank is silent after half of this.
FLAGS = ("--stall-s", "20")
SILENT: list[Cut] = ["link down", "one way"]
AWAY = "rank 1 on host other-host has been away for 3 s"


@pytest.fixture(scope="module")
def host() -> Iterator[NamespaceHost]:
    with namespace_host() as host:
        yield host


@pytest.fixture(scope="module")
def apart(host: NamespaceHost, llama_path: Path, tmp_path_factory: Any) -> Iterator[Daemon]:
    """A service that waits for its ranks for as long as it takes."""
    folder = tmp_path_factory.mktemp("apart")
    flags = [*FLAGS, "--ranks-away-s", "3600", "--queue-timeout-s", "3600"]
    with running_apart(host, llama_path, folder, flags) as daemon:
        yield daemon


def second_rank(daemon: Daemon) -> dict[str, Any]:
    """What `/health` says of rank 1."""
    rank: dict[str, Any] = daemon.health()["worker"]["ranks"][1]
    return rank


@pytest.mark.anyio
@pytest.mark.parametrize("how", SILENT)
async def test_a_rank_that_is_cut_off_without_a_word_is_a_pause(
    apart: Daemon, daemon: Daemon, host: NamespaceHost, how: Cut
) -> None:
    bodies = make_requests(7, tokens=200)
    expected = await answer_all(daemon, bodies)
    losses = second_rank(apart)["restarts"].get("unreachable", 0)

    def cut_and_mend() -> None:
        host.cut(how)
        try:
            wait_for(lambda: second_rank(apart)["state"] == "away")
            assert second_rank(apart)["restarts"]["unreachable"] > losses
        finally:
            host.mend(how)

    assert await answer_during(apart, bodies, cut_and_mend) == expected
    apart.wait_until("status", be="healthy")
    assert second_rank(apart)["host"] == "other-host"


@pytest.mark.anyio
async def test_reset_connections_are_a_pause(
    apart: Daemon, daemon: Daemon, host: NamespaceHost
) -> None:
    bodies = make_requests(7, tokens=200)
    expected = await answer_all(daemon, bodies)
    apart.wait_until("status", be="healthy")
    restarts = apart.health()["worker"]["restarts"]
    assert await answer_during(apart, bodies, lambda: host.cut("reset")) == expected
    wait_for(lambda: apart.health()["worker"]["restarts"] > restarts)
    apart.wait_until("status", be="healthy")


def test_a_host_that_stays_away_ends_requests_and_is_served_again_once_it_is_back(
    host: NamespaceHost, llama_path: Path, tmp_path: Path
) -> None:
    flags = [*FLAGS, "--ranks-away-s", "3"]
    body = make_requests(1, tokens=200)[0]
    with running_apart(host, llama_path, tmp_path, flags) as daemon:
        host.cut("link down")
        try:
            waiting: queue.SimpleQueue[httpx.Response] = queue.SimpleQueue()
            threading.Thread(target=lambda: waiting.put(ask(daemon, body)), daemon=True).start()
            report = daemon.wait_until("status", be="failed")
            assert AWAY in report["reason"]
            assert report["worker"]["ranks"][1]["state"] in ("starting", "away")
            for response in (waiting.get(timeout=HANG_S), ask(daemon, body)):
                assert response.status_code == 503
                assert AWAY in response.json()["error"]["message"]
                assert int(response.headers["retry-after"]) > 0
            wait_for(lambda: second_rank(daemon)["state"] == "away")
        finally:
            host.mend("link down")
        daemon.wait_until("status", be="healthy")
        assert ask(daemon, body).status_code == 200


def ask(daemon: Daemon, body: dict[str, Any]) -> httpx.Response:
    """The answer to one request, whatever it is."""
    with plain_http.client(daemon.url) as client:
        return client.post("/v1/chat/completions", json=body, timeout=HANG_S)
