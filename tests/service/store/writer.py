"""A process that goes on writing responses to a file, and names each one once it is kept.

Run as `python -m tests.service.store.writer PATH [MAX_FILE_BYTES]`. The first line is `open`; then
`kept ID`, or `not kept: REASON`, until the process is killed.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys

from service.errors import MlxdError, StoreUnavailable
from service.store.backends.rows import StoredItem
from service.store.opening import COMMON_OWNER, Stores, open_stores

BOUND = 1 << 20
TTL_S = 3600.0
ITEM_BYTES = 700
# Every so often a response is deleted, one is left queued, and a chain ends.
PERIOD = 7


def content_of(id: str) -> bytes:
    """The content of the only input, and of the only output, of a response."""
    return (f'"{id} ' * ITEM_BYTES)[:ITEM_BYTES].encode()


async def write_one(stores: Stores, number: int) -> str:
    """Make the response with this number, after the one before it."""
    id = f"resp_{number}"
    previous = f"resp_{number - 1}" if number % PERIOD else None
    response = await stores.responses.open(COMMON_OWNER, id, previous_response_id=previous)
    async with response:
        response.inputs = [StoredItem(f"in_{id}", content_of(id))]
        if number % 2:
            await response.queue(b'{"status":"queued"}')
        outputs = [StoredItem(f"out_{id}", content_of(id))]
        is_kept = await response.finish("completed", b'{"status":"completed"}', outputs)
    if number % PERIOD == PERIOD - 1:
        await stores.responses.delete(COMMON_OWNER, f"resp_{number - 3}")
    return f"kept {id}" if is_kept else f"not kept: {id}"


async def write(path: str) -> None:
    """Write responses without end."""
    stores = await open_stores(path, BOUND, TTL_S)
    queued = await stores.responses.open(COMMON_OWNER, "resp_queued")
    await queued.queue(b'{"status":"queued","model":"m"}')
    say("open")
    for number in range(1_000_000):
        try:
            say(await write_one(stores, number))
        except MlxdError as error:
            say(f"not kept: {error.message}")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Write until the process is killed, or the file cannot be opened."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stdout, format="%(message)s")
    if sys.argv[2:]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        asyncio.run(write(sys.argv[1]))
    except StoreUnavailable as error:
        say(f"refused: {error.message}")


if __name__ == "__main__":
    main()
