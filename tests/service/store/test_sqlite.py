"""The store in a file: after restarts and crashes, with a damaged file, a full disk, or in use."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from service.errors import StoredObjectNotFound, StoreUnavailable
from service.store.backends.database import APPLICATION_ID, Database
from service.store.backends.rows import Changes, StoredItem
from service.store.index import Clock
from service.store.items import chain_of
from service.store.opening import COMMON_OWNER, Stores, open_stores
from service.store.pages import PageQuery
from tests.service.store.writer import BOUND, PERIOD, TTL_S, content_of

pytestmark = pytest.mark.anyio

ALL = PageQuery(100, "asc")
SECRET = b"the words of a client"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "responses.db"


@asynccontextmanager
async def opened(path: Path, clock: Clock | None = None) -> AsyncIterator[Stores]:
    """The stores of a file, until the end of the block."""
    stores = await open_stores(str(path), BOUND, TTL_S, clock=clock)
    try:
        yield stores
    finally:
        await stores.close()


@contextmanager
def writing(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes to the file; killed at the end."""
    command = [sys.executable, "-m", "tests.service.store.writer", str(path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_lines(process: subprocess.Popen[str], until: Callable[[list[str]], bool]) -> list[str]:
    """The lines of a process, up to those that `until` takes."""
    assert process.stdout is not None
    lines: list[str] = []
    while not until(lines):
        line = process.stdout.readline()
        assert line, lines
        lines.append(line.rstrip("\n"))
    return lines


def mode_of(path: Path) -> int:
    """The permissions of a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


def list_files(path: Path) -> list[Path]:
    """The file and those beside it."""
    return sorted(path.parent.iterdir())


def damaged_files(path: Path) -> list[Path]:
    """Those beside the file that were set aside."""
    return [file for file in list_files(path) if "damaged" in file.name]


def read_file(path: Path) -> bytes:
    """The content of a file."""
    return path.read_bytes()


def read_files(path: Path) -> bytes:
    """The content of the file and of those beside it."""
    return b"".join(map(read_file, list_files(path)))


def spoil(path: Path, damage: str) -> None:
    """Damage a file in one of four ways."""
    content = path.read_bytes()
    match damage:
        case "text":
            path.write_bytes(b"this is no database" * 100)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "zeros":
            half = len(content) // 2
            path.write_bytes(content[:4096] + bytes(half) + content[4096 + half :])
        case _:
            with sqlite3.connect(path) as connection:
                connection.execute("DROP TABLE turns")
            connection.close()


def has_lines(number: int, lines: list[str]) -> bool:
    """Whether there are more lines than `number`."""
    return len(lines) > number


async def keep(stores: Stores, id: str, content: bytes, after: str | None = None) -> bool:
    """Make a response with one item in, and one out."""
    response = await stores.responses.open(COMMON_OWNER, id, previous_response_id=after)
    async with response:
        response.inputs = [StoredItem(f"in_{id}", content)]
        return await response.finish("completed", b"{}", [StoredItem(f"out_{id}", content)])


async def check_whole(stores: Stores) -> None:
    """Check that every response has all of its items, and that no other row is left."""
    index = stores.index
    turns = {turn for entry in index.entries.values() for turn in chain_of(entry.turn)}
    assert set(index.graph.turns.values()) == turns
    items = {item for turn in turns for item in turn.items}
    assert set(index.graph.items.values()) == items
    sizes = [turn.size for turn in turns] + [item.size for item in items]
    sizes += [entry.size for entry in index.entries.values()]
    assert index.usage.held_bytes == sum(sizes) <= BOUND
    for id, entry in index.entries.items():
        found = await stores.responses.get(COMMON_OWNER, id)
        page = await stores.responses.list_inputs(COMMON_OWNER, id, ALL)
        assert entry.turn is not None or id == "resp_queued"
        for item in [*found.outputs, *page.items]:
            assert item.data == content_of(item.id.removeprefix("in_").removeprefix("out_"))


# ---------------------------------------------------------------- restarts


async def test_what_is_kept_is_there_after_a_restart(path: Path) -> None:
    now = 1000.0
    clock = Clock(unix_s=lambda: now, monotonic_s=lambda: now)
    async with opened(path, clock) as stores:
        assert await keep(stores, "resp_1", content_of("resp_1"))
        assert await keep(stores, "resp_2", content_of("resp_2"), "resp_1")
        await stores.responses.delete(COMMON_OWNER, "resp_1")
        await stores.conversations.create(
            COMMON_OWNER, "conv_1", b'{"metadata":{}}', [StoredItem("u", b"1")], 5.0
        )
        held = stores.index.usage.held_bytes
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
    assert list_files(path) == [path]
    now += TTL_S / 2
    async with opened(path, clock) as stores:
        assert stores.index.usage.held_bytes == held
        page = await stores.responses.list_inputs(COMMON_OWNER, "resp_2", ALL)
        assert [item.id for item in page.items] == ["in_resp_1", "out_resp_1", "in_resp_2"]
        assert (await stores.conversations.get(COMMON_OWNER, "conv_1")).created_at == 5.0
        # New items have new numbers.
        assert await keep(stores, "resp_3", content_of("resp_3"), "resp_2")
        await stores.conversations.delete(COMMON_OWNER, "conv_1")
        await check_whole(stores)
    now += TTL_S / 2
    async with opened(path, clock) as stores:
        assert list(stores.index.entries) == ["resp_3"]
        with pytest.raises(StoredObjectNotFound):
            await stores.responses.get(COMMON_OWNER, "resp_2")
    now -= 10 * TTL_S
    async with opened(path, clock) as stores:
        assert list(stores.index.entries) == ["resp_3"]


async def test_responses_that_a_restart_fails_are_within_the_bound(path: Path) -> None:
    async with opened(path) as stores:
        queued = await stores.responses.open(COMMON_OWNER, "resp_queued")
        await queued.queue(b'{"status":"queued"}')
        assert await keep(stores, "resp_1", content_of("resp_1"))
        held_bytes = stores.index.usage.held_bytes
    stores = await open_stores(str(path), held_bytes, TTL_S)
    try:
        assert 0 < stores.index.usage.held_bytes <= held_bytes
    finally:
        await stores.close()


async def test_a_background_response_that_ran_is_failed_after_a_restart(path: Path) -> None:
    with writing(path) as process:
        read_lines(process, lambda lines: len(lines) > 2)
    async with opened(path) as stores:
        found = await stores.responses.get(COMMON_OWNER, "resp_queued")
        assert found.status == "failed"
        body = msgspec.json.decode(found.data)
        assert body == {
            "status": "failed",
            "model": "m",
            "error": {"code": "server_error", "message": "The service was restarted."},
        }
    async with opened(path) as stores:
        assert (await stores.responses.get(COMMON_OWNER, "resp_queued")).data == found.data


async def test_deleted_content_leaves_the_file(path: Path) -> None:
    async with opened(path) as stores:
        await keep(stores, "resp_1", SECRET * 100)
        await stores.index.backend.tidy()
        assert SECRET in read_files(path)
        await stores.responses.delete(COMMON_OWNER, "resp_1")
        await stores.index.backend.tidy()
        assert SECRET not in read_files(path)


async def test_a_smaller_bound_evicts_at_the_start(path: Path) -> None:
    async with opened(path) as stores:
        for number in range(20):
            await keep(stores, f"resp_{number}", content_of(f"resp_{number}"))
    stores = await open_stores(str(path), 20_000, TTL_S)
    assert 0 < stores.index.usage.held_bytes <= 20_000
    assert "resp_19" in stores.index.entries
    assert "resp_0" not in stores.index.entries
    await stores.close()


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("number", [1, 2, 13, 60, 200])
async def test_a_killed_service_loses_nothing_that_it_has_confirmed(
    path: Path, number: int
) -> None:
    with writing(path) as process:
        lines = read_lines(process, lambda lines: len(lines) > number)
        process.kill()
        assert process.stdout is not None
        lines += process.stdout.read().splitlines()
    kept = [line.removeprefix("kept resp_") for line in lines if line.startswith("kept ")]
    assert len(kept) >= number
    async with opened(path) as stores:
        await check_whole(stores)
        last = int(kept[-1])
        assert (await stores.responses.get(COMMON_OWNER, f"resp_{last}")).status == "completed"
        page = await stores.responses.list_inputs(COMMON_OWNER, f"resp_{last}", ALL)
        assert len(page.items) == 2 * (last % PERIOD) + 1
        deleted = [n - 3 for n in range(last + 1) if n % PERIOD == PERIOD - 1]
        assert not any(f"resp_{n}" in stores.index.entries for n in deleted)
        assert await keep(stores, "resp_next", content_of("resp_next"), f"resp_{last}")


async def test_the_file_is_whole_after_many_kills(path: Path) -> None:
    for number in range(1, 9):
        with writing(path) as process:
            read_lines(process, partial(has_lines, 3 * number))
    async with opened(path) as stores:
        await check_whole(stores)
        assert not damaged_files(path)


# ---------------------------------------------------------------- files that cannot be used


async def test_a_second_service_is_refused_in_words_and_the_first_goes_on(path: Path) -> None:
    with writing(path) as process:
        read_lines(process, lambda lines: len(lines) > 3)
        with pytest.raises(StoreUnavailable, match="another service has it open"):
            await open_stores(str(path), BOUND, TTL_S)
        assert read_lines(process, lambda lines: len(lines) > 300)[-1].startswith("kept ")
    async with opened(path) as stores:
        await check_whole(stores)


@pytest.mark.parametrize("damage", ["text", "cut", "zeros", "no tables"])
async def test_a_damaged_file_is_set_aside(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path) as stores:
        for number in range(100):
            await keep(stores, f"resp_{number}", content_of(f"resp_{number}"))
    spoil(path, damage)
    spoiled = read_files(path)
    async with opened(path) as stores:
        assert not stores.index.entries
        assert await keep(stores, "resp_1", b"1")
    (moved,) = damaged_files(path)
    assert read_file(moved) == spoiled
    assert str(moved) in caplog.text
    assert "damaged" in caplog.text
    async with opened(path) as stores:
        assert list(stores.index.entries) == ["resp_1"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA application_id=7", "another program"),
        (f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=99", "newer mlxd"),
    ],
)
async def test_a_file_of_others_is_refused_and_left_as_it_is(
    path: Path, statement: str, reason: str
) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE t (a); {statement}")
    connection.close()
    before = read_file(path)
    with pytest.raises(StoreUnavailable, match=reason):
        await open_stores(str(path), BOUND, TTL_S)
    assert read_file(path) == before


async def test_a_path_that_is_no_file_is_refused_in_words(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "text").write_text("text")
    for path in (tmp_path, fifo, tmp_path / "text" / "responses.db"):
        with pytest.raises(StoreUnavailable, match=r"response_store: .*([Dd]irectory|not a file)"):
            await open_stores(str(path), BOUND, TTL_S)


# ---------------------------------------------------------------- a full disk


async def test_a_file_that_may_not_grow_loses_only_what_is_new(path: Path) -> None:
    with writing(path, str(256 * 1024)) as process:
        lines = read_lines(process, lambda lines: sum("not kept" in x for x in lines) > 3)
    assert "the disk cannot be written" in "\n".join(lines)
    assert "Traceback" not in "\n".join(lines)
    kept = [line.removeprefix("kept ") for line in lines if line.startswith("kept ")]
    async with opened(path) as stores:
        await check_whole(stores)
        first = [id for id in kept[:PERIOD] if id != f"resp_{PERIOD - 4}"]
        assert set(first) <= set(stores.index.entries)
        assert not damaged_files(path)


async def test_a_full_disk_is_answered_in_words_until_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path) as stores:
        await keep(stores, "resp_1", content_of("resp_1"))
        # The error that SQLite gives for a full disk, from a limit of its own.
        monkeypatch.setattr(Database, "write", limit_pages(Database.write))
        assert not await keep(stores, "resp_2", content_of("resp_2") * 100)
        assert "the disk is full" in caplog.text
        with pytest.raises(StoredObjectNotFound):
            await stores.responses.get(COMMON_OWNER, "resp_2")
        with pytest.raises(StoreUnavailable, match="the disk is full") as full:
            await stores.conversations.create(
                COMMON_OWNER, "conv_1", b"{}", [StoredItem("u", bytes(100_000))], 0.0
            )
        assert path.name not in full.value.message
        response = await stores.responses.open(COMMON_OWNER, "resp_3")
        response.inputs = [StoredItem("u", bytes(100_000))]
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await response.queue(b"{}")
        response.close()
        assert (await stores.responses.get(COMMON_OWNER, "resp_1")).status == "completed"
        monkeypatch.undo()
        assert await keep(stores, "resp_4", content_of("resp_4"), "resp_1")
    async with opened(path) as stores:
        await check_whole(stores)
        assert list(stores.index.entries) == ["resp_1", "resp_4"]


def limit_pages(
    write: Callable[[Database, Changes], None],
) -> Callable[[Database, Changes], None]:
    """`Database.write`, for a file that may not grow."""

    def write_within(database: Database, changes: Changes) -> None:
        connection = database._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}").fetchall()
        try:
            write(database, changes)
        finally:
            connection.execute("PRAGMA max_page_count=1000000").fetchall()

    return write_within
