"""The size of the response store, as Prometheus reads it."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from service.store.backends.rows import StoredItem
from service.store.opening import COMMON_OWNER, open_memory_stores
from service.telemetry.exporters import Exporters
from service.telemetry.providers import Telemetry
from service.telemetry.store_metrics import create_store_metrics

pytestmark = pytest.mark.anyio

BOUND = 8_000


async def test_bytes_entries_and_evictions_are_read() -> None:
    stores = open_memory_stores(BOUND, 100.0)
    telemetry = Telemetry(Exporters(), "tested")
    create_store_metrics(telemetry.meter_provider.get_meter("tested"), stores.index)
    for number in range(3):
        async with await stores.responses.open(COMMON_OWNER, f"resp_{number}") as response:
            await response.finish("completed", b"{}", [StoredItem("msg", bytes(3_000))])
    text = generate_latest(telemetry.registry).decode()
    lines = [line for line in text.splitlines() if line.startswith("mlxd_response_store")]
    found = {line.partition("{")[0].split()[0]: float(line.split()[-1]) for line in lines}
    assert found == {
        "mlxd_response_store_bytes": stores.index.usage.held_bytes,
        "mlxd_response_store_entries": 1,
        "mlxd_response_store_evictions_total": 2,
    }
