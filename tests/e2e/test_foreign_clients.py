"""Clients with environments of their own, made by `make clients`: a scenario of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import scenario
from tests.e2e.clients.catalogue import CLIENTS, Client
from tests.e2e.daemon import Daemon

# Forty programs, each with a start of its own.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def watched() -> Iterator[Daemon]:
    """A service whose log is read, so that no other test may use it."""
    with scenario.service() as daemon:
        yield daemon


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_talks_calls_streams_and_is_refused(client: Client, watched: Daemon) -> None:
    environments = Path(os.environ.get("CLIENTS_FOLDER", scenario.DEFAULT_ENVIRONMENTS))
    if not scenario.is_installed(client, environments):
        reason = f"{client.name} is not there: make clients"
        if "CI" in os.environ or os.environ.get("CLIENTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    faults = scenario.run(client, environments, watched).faults
    assert not faults, "\n".join(faults)
