"""Time and memory of a service that has many stored responses in a file."""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import msgspec
from rich.table import Table

from service.store.backends.rows import StoredItem
from service.store.opening import COMMON_OWNER, Stores, open_stores
from tests.e2e.daemon import running
from tests.load.figures import Percentiles
from tests.load.servers import make_tiny
from tests.load.tables import wide_console
from worker.memory.footprint import read_footprint_of

COUNTS = (2000, 100_000)
REPEATS = 300
LEAST = 4 * REPEATS
MAX_BYTES, TTL_S = 4 << 30, 3e7
TIMEOUT_S = 60.0
MIB = 1 << 20
QUESTION, ANSWER = "How many boats came back? " * 5, "Three of them, with torn sails. " * 5

Send = Callable[[], httpx.Response]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--responses", type=read_count, nargs="+", default=COUNTS, help="in the store"
    )


def read_count(text: str) -> int:
    """A number of responses, of which each is asked for once.

    Raises:
        argparse.ArgumentTypeError: they are too few.
    """
    if (count := int(text)) < LEAST:
        raise argparse.ArgumentTypeError(f"{count} is not at least {LEAST:,}")
    return count


def main(options: argparse.Namespace) -> int:
    """Print a table."""
    table = Table(title="with stored responses; times of requests: ms, p50/p99")
    headings = ("responses", "file, MiB", "start, s", "service, MiB")
    requests = ("read", "list its input", "create", "continue", "delete")
    for heading in (*headings, *requests):
        table.add_column(heading, justify="right")
    for count in options.responses:
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(str(count), *measure(Path(folder), count))
    wide_console().print(table)
    return 0


def measure(folder: Path, count: int) -> list[str]:
    """The figures of a service with this many stored responses."""
    file, model = folder / "responses.db", make_tiny(folder)
    ids = asyncio.run(fill(file, count))
    flags = [f"--response-store={file}", f"--response-store-bytes={MAX_BYTES}"]
    flags += [f"--response-store-ttl-s={TTL_S}", "--log-level=warning"]
    random.Random(0).shuffle(ids)
    started_at = time.perf_counter()
    with (
        running(model, flags=flags) as daemon,
        httpx.Client(base_url=f"{daemon.url}/v1", timeout=TIMEOUT_S) as client,
    ):
        start_s = time.perf_counter() - started_at
        held = read_footprint_of(daemon.process.pid)
        body = {"model": "default", "input": QUESTION, "max_output_tokens": 16}
        answers = iter(ids)

        def go_on() -> httpx.Response:
            return client.post("/responses", json={**body, "previous_response_id": next(answers)})

        sends: list[Send] = [
            lambda: client.get(f"/responses/{next(answers)}"),
            lambda: client.get(f"/responses/{next(answers)}/input_items"),
            lambda: client.post("/responses", json=body),
            go_on,
            lambda: client.delete(f"/responses/{next(answers)}"),
        ]
        times = [describe(send) for send in sends]
    size = file.stat().st_size
    return [f"{size / MIB:.0f}", f"{start_s:.1f}", f"{held / MIB:.0f}", *times]


async def fill(file: Path, count: int) -> list[str]:
    """Write the responses; their ids."""
    stores = await open_stores(str(file), MAX_BYTES, TTL_S)
    ids = [await write(stores, number) for number in range(count)]
    await stores.close()
    return ids


async def write(stores: Stores, number: int) -> str:
    """Write one response of a question and an answer."""
    id = f"resp_{number:032x}"
    response = await stores.responses.open(COMMON_OWNER, id)
    asked = {"type": "input_text", "text": QUESTION}
    answered = {"type": "output_text", "text": ANSWER, "annotations": []}
    response.inputs = [make_item(f"msg_{number:032x}", "user", asked)]
    outputs = [make_item(f"msg_a{number:031x}", "assistant", answered)]
    data = {"id": id, "object": "response", "created_at": 1, "status": "completed", "model": "m"}
    await response.finish("completed", msgspec.json.encode(data), outputs)
    response.close()
    return id


def make_item(id: str, role: str, part: Mapping[str, object]) -> StoredItem:
    """A message of one part as it is stored."""
    item = {"type": "message", "id": id, "role": role, "status": "completed", "content": [part]}
    return StoredItem(id, msgspec.json.encode(item))


def describe(send: Send) -> str:
    """The times of a request that is sent repeatedly."""
    times = []
    for _ in range(REPEATS):
        began_at = time.perf_counter()
        send().raise_for_status()
        times.append(time.perf_counter() - began_at)
    found = Percentiles.of(times)
    return f"{found.p50:.1f}/{found.p99:.1f}"
