"""The registry when several clients share its places."""

from __future__ import annotations

import pytest

from protocol.events import Started
from protocol.messages import Cancel, RenameClient, Step, Submit
from service.errors import Overloaded
from service.inflight.registry import RequestRegistry
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.records import IDLE, make_submit

pytestmark = pytest.mark.anyio

PLACES = 3


async def test_a_full_registry_makes_room_for_a_client_below_its_share() -> None:
    worker = RecordingWorker()
    registry = RequestRegistry(worker, max_in_flight=PLACES, load_wait_s=0, queue_timeout_s=60)
    registry.worker_ready()
    many = [await registry.open([make_submit(0)], "many") for _ in range(PLACES)]
    registry.worker_stepped(Step([Started(1, 1)], IDLE))
    with pytest.raises(Overloaded):
        await registry.open([make_submit(0)], "many")
    worker.sent.clear()
    await registry.open([make_submit(0)], "few")
    # Ids count from 1, so the newest request of the other client has this one.
    assert worker.sent[0] == Cancel([PLACES])
    assert isinstance(worker.sent[1], Submit)
    assert worker.sent[1].client == "few"
    with pytest.raises(Overloaded):
        await many[-1].start()
    await many[0].start()


async def test_the_worker_gets_a_name_that_was_found_late_and_so_does_the_next_one() -> None:
    worker = RecordingWorker()
    registry = RequestRegistry(worker, max_in_flight=PLACES, load_wait_s=0, queue_timeout_s=60)
    registry.worker_ready()
    await registry.open([make_submit(0)], "former")
    await registry.open([make_submit(0)], "other")
    worker.sent.clear()
    registry.rename_client("unknown", "found")
    registry.rename_client("former", "found")
    assert worker.sent == [RenameClient("former", "found")]
    registry.worker_lost()
    worker.sent.clear()
    registry.worker_ready()
    assert [each.client for each in worker.sent if isinstance(each, Submit)] == ["found", "other"]
