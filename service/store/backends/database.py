"""The file of the store: an SQLite database that one service has open at a time.

All functions block; one thread calls them. `synchronous` is NORMAL: what is written outlives the
end of the process by any cause, and the last moments may be lost with the power.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from service.errors import StoreUnavailable
from service.store.backends.rows import (
    Changes,
    DataRow,
    EntryRow,
    ItemRow,
    Row,
    RowKey,
    Table,
    TurnRow,
)

logger = logging.getLogger(__name__)

FILE_MODE = 0o600
FOLDER_MODE = 0o700
# "mlxd", so that the file of another program is not taken for one of ours.
APPLICATION_ID = 0x6D6C7864
SCHEMA_VERSION = 1
LOCK_TIMEOUT_S = 1.0
KEYS_PER_READ = 500
PAGES_PER_TIDY = 2000
# The whole file is checked at the start, unless that takes long.
MAX_CHECKED_BYTES = 1 << 30
# The files that SQLite keeps beside the database.
COMPANIONS = ("-wal", "-shm", "-journal")

SCHEMA = """
CREATE TABLE items (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL, owner TEXT NOT NULL, data BLOB NOT NULL
);
CREATE TABLE turns (
    key INTEGER PRIMARY KEY, owner TEXT NOT NULL, parent INTEGER NOT NULL, items BLOB NOT NULL,
    inputs INTEGER NOT NULL
);
CREATE TABLE entries (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL, created_at REAL NOT NULL,
    kept_from REAL NOT NULL, status TEXT NOT NULL, is_background INTEGER NOT NULL,
    turn INTEGER NOT NULL
);
CREATE TABLE data (key TEXT PRIMARY KEY, data BLOB NOT NULL);
"""
INSERTS: dict[Table, str] = {
    "items": "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)",
    "turns": "INSERT OR REPLACE INTO turns VALUES (?, ?, ?, ?, ?)",
    "entries": "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "data": "INSERT OR REPLACE INTO data VALUES (?, ?)",
}
TABLES: tuple[Table, ...] = ("items", "turns", "entries", "data")

Values = tuple[int | str | float | bytes, ...]


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """An item without its data."""

    key: int
    id: str
    owner: str
    data_bytes: int


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """What the store needs to know of all rows: turns by key, entries by `kept_from`."""

    items: list[LoadedItem]
    turns: list[tuple[int, TurnRow]]
    entries: list[tuple[str, EntryRow, int]]

    @property
    def next_key(self) -> int:
        """A number above those of all items and turns."""
        keys = [item.key for item in self.items] + [key for key, _ in self.turns]
        return max(keys, default=0) + 1


class Database:
    """The open file. Every method may raise `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make its tables if it is new.

        Raises:
            sqlite3.Error: it cannot be opened, or is damaged.
            StoreUnavailable: it is another program's, or a newer mlxd's.
        """
        self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        try:
            self._set_up(path)
        except BaseException:
            self._connection.close()
            raise

    def write(self, changes: Changes) -> None:
        """Apply all changes, or none."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for table in TABLES:
                own = [(key, row) for key, row in changes.items() if key.table == table]
                self._connection.executemany(
                    INSERTS[table], (to_values(key, row) for key, row in own if row is not None)
                )
                self._connection.executemany(
                    f"DELETE FROM {table} WHERE key = ?",
                    ((key.key,) for key, row in own if row is None),
                )
            self._connection.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has done it already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def read(self, keys: Sequence[RowKey]) -> dict[RowKey, bytes]:
        """The data of those rows that exist."""
        found: dict[RowKey, bytes] = {}
        for table in ("items", "data"):
            wanted = [key.key for key in keys if key.table == table]
            for start in range(0, len(wanted), KEYS_PER_READ):
                part = wanted[start : start + KEYS_PER_READ]
                marks = ",".join("?" * len(part))
                rows = self._query(f"SELECT key, data FROM {table} WHERE key IN ({marks})", part)
                found.update((RowKey(table, key), data) for key, data in rows)
        return found

    def load(self) -> LoadedRows:
        """All rows, without their data."""
        items = self._query("SELECT key, id, owner, length(data) FROM items ORDER BY key")
        turns = self._query("SELECT key, owner, parent, items, inputs FROM turns ORDER BY key")
        entries = self._query(
            "SELECT key, kind, owner, created_at, kept_from, status, is_background, turn, "
            "length(data) FROM entries JOIN data USING (key) ORDER BY kept_from"
        )
        return LoadedRows(
            items=[LoadedItem(*row) for row in items],
            turns=[to_turn(*row) for row in turns],
            entries=[to_entry(*row) for row in entries],
        )

    def tidy(self) -> None:
        """Empty the write-ahead log, which has deleted content too, and free unused space."""
        self._pragma(f"incremental_vacuum({PAGES_PER_TIDY})")
        self._pragma("wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Empty the write-ahead log, and close the file."""
        self._connection.close()

    # ---------------------------------------------------------------- opening

    def _set_up(self, path: Path) -> None:
        # Held until the file is closed: a second service is refused at once.
        self._pragma("locking_mode=EXCLUSIVE")
        self._connection.execute("BEGIN EXCLUSIVE")
        is_new = not self._number("schema_version")
        self._connection.execute("COMMIT")
        if is_new:
            self._pragma("auto_vacuum=INCREMENTAL")
        else:
            self._check_version(path)
        self._pragma("journal_mode=WAL")
        self._pragma("secure_delete=ON")
        self._pragma("synchronous=NORMAL")
        if is_new:
            self._create_tables()
        elif path.stat().st_size <= MAX_CHECKED_BYTES:
            self._check_content()

    def _check_version(self, path: Path) -> None:
        if self._number("application_id") != APPLICATION_ID:
            raise StoreUnavailable(f"response_store: {path} is the database of another program")
        version = self._number("user_version")
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"response_store: {path} was written by a newer mlxd (its schema is {version}, "
                f"this one knows {SCHEMA_VERSION})"
            )

    def _check_content(self) -> None:
        """Check the whole file.

        Raises:
            sqlite3.DatabaseError: it is damaged.
        """
        (result,) = self._pragma("quick_check(1)")[0]
        if result != "ok":
            raise DamagedFile(str(result))

    def _create_tables(self) -> None:
        self._connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; "
            f"PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )

    def _number(self, pragma: str) -> int:
        ((number,),) = self._pragma(pragma)
        return int(number)

    def _pragma(self, text: str) -> list[tuple[Any, ...]]:
        return self._query(f"PRAGMA {text}")

    def _query(self, text: str, values: Sequence[int | str] = ()) -> list[tuple[Any, ...]]:
        """All rows at once: a statement that is not read to its end keeps the file open."""
        return self._connection.execute(text, values).fetchall()


class DamagedFile(sqlite3.DatabaseError):
    """A check of the file has found damage."""


def open_database(path: Path) -> tuple[Database, LoadedRows]:
    """Open the file, or make it, and read its rows; a damaged one is set aside.

    Raises:
        StoreUnavailable: it cannot be opened: another service has it open, for example.
    """
    try:
        prepare_file(path)
        try:
            return open_and_load(path)
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
            moved = set_aside(path)
            logger.error("response_store: %s is damaged (%s): moved to %s", path, error, moved)
        prepare_file(path)
        return open_and_load(path)
    except OSError as error:
        raise StoreUnavailable(f"response_store: {path}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StoreUnavailable(f"response_store: {path}: {describe(error)}") from None


def open_and_load(path: Path) -> tuple[Database, LoadedRows]:
    """The open file with its rows.

    Raises:
        sqlite3.Error: it cannot be opened, or is damaged.
        StoreUnavailable: it is another program's, or a newer mlxd's.
    """
    database = Database(path)
    try:
        return database, database.load()
    except BaseException as error:
        database.close()
        if isinstance(error, msgspec.MsgspecError | TypeError):
            raise DamagedFile("a row is not one of ours") from None
        raise


def prepare_file(path: Path) -> None:
    """Make the folder and an empty file for the owner alone, where they are missing.

    Raises:
        OSError: this is not possible, or the path is not a file.
    """
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise FileExistsError(errno.EEXIST, "it is not a file")
        if stat.S_IMODE(mode) != FILE_MODE:
            os.fchmod(descriptor, FILE_MODE)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, with those beside it, and return its new path.

    Raises:
        OSError: it cannot be renamed.
    """
    moved = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(moved)
    for companion in COMPANIONS:
        beside = path.with_name(path.name + companion)
        if beside.exists():
            beside.rename(moved.with_name(moved.name + companion))
    return moved


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged, as opposed to locked, full or unreadable."""
    if isinstance(error, DamagedFile):
        return True
    # The code's lower byte is the kind of the error.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # Tables may be missing or different: a generic error.
    is_other_schema = code == sqlite3.SQLITE_ERROR and "no such" in str(error)
    return is_other_schema or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def describe(error: sqlite3.Error) -> str:
    """What is wrong, in words."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "the disk is full"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "another service has it open"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return "it cannot be written"
        case sqlite3.SQLITE_IOERR:
            return f"the disk cannot be written or read ({error})"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return "it is damaged; the next start sets it aside"
        case _:
            return str(error)


# ---------------------------------------------------------------- rows


def to_values(key: RowKey, row: Row) -> Values:
    """The columns of a row."""
    match row:
        case ItemRow():
            return key.key, row.id, row.owner, row.data
        case TurnRow():
            return key.key, row.owner, row.parent, msgspec.msgpack.encode(row.items), row.inputs
        case DataRow():
            return key.key, row.data
        case EntryRow():
            return (
                key.key,
                row.kind,
                row.owner,
                row.created_at,
                row.kept_from,
                row.status,
                int(row.is_background),
                row.turn,
            )


def to_turn(key: int, owner: str, parent: int, items: bytes, inputs: int) -> tuple[int, TurnRow]:
    """A turn from its columns.

    Raises:
        msgspec.MsgspecError: it is not one of ours.
    """
    keys = msgspec.msgpack.decode(items, type=tuple[int, ...])
    return key, TurnRow(owner=owner, parent=parent, items=keys, inputs=inputs)


def to_entry(key: str, *columns: object) -> tuple[str, EntryRow, int]:
    """A response or a conversation from its columns, with the bytes of its data.

    Raises:
        msgspec.MsgspecError: it is not one of ours.
    """
    *own, data_bytes = columns
    names = EntryRow.__struct_fields__
    row = msgspec.convert(dict(zip(names, own, strict=True)), EntryRow, strict=False)
    return key, row, msgspec.convert(data_bytes, int)
