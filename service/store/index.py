"""Which responses and conversations exist, whose they are, and which are evicted.

A bound in bytes holds for all owners together. Where an entry needs room, expired entries go
first, then the least recently used one of the owner that holds most, so no owner within an
equal share loses an entry to another. Entries in use are not evicted: what they pin is at most
as much as is left of the bound for all others, so another owner always finds room.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.schema.object_ids import ObjectIds
from service.store.backends.backend import Backend
from service.store.backends.rows import (
    UNFINISHED,
    Changes,
    DataRow,
    EntryKind,
    EntryRow,
    RowKey,
    Status,
    data_key,
    entry_key,
)
from service.store.items import ItemGraph, OwnerUsage, Turn, Usage
from service.store.replay_log import ReplayLog

# What an entry takes in memory besides its data.
ENTRY_BYTES = 768


@dataclass(frozen=True, slots=True)
class Clock:
    """`unix_s` is stored; `monotonic_s` decides what expires: the wall clock may jump."""

    unix_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic


class Owner(OwnerUsage):
    """An owner, with the ids of its entries that may be evicted, the least recently used first."""

    def __init__(self, name: str, total: Usage) -> None:
        super().__init__(name, total)
        self.evictable: OrderedDict[str, Entry] = OrderedDict()


@dataclass(slots=True, eq=False)
class Entry:
    """A response or a conversation, without its data. `uses` are requests that need it."""

    kind: EntryKind
    id: str
    owner: Owner
    created_at: float
    status: Status
    is_background: bool
    turn: Turn | None
    kept_from: float
    expires_at_s: float
    data_bytes: int
    log: ReplayLog | None = None
    log_bytes: int = 0
    uses: int = 0
    # Raised with each change, so that a reader notices one.
    version: int = 0
    is_removed: bool = False

    @property
    def size(self) -> int:
        """The bytes of the entry itself, without its turns."""
        return ENTRY_BYTES + len(self.id) + self.data_bytes + self.log_bytes


class StoreIndex:
    """All entries, within `max_bytes` and `ttl_s`; their data is in `backend`.

    What the methods change is passed on by `apply` or `commit`.
    """

    def __init__(
        self,
        backend: Backend,
        max_bytes: int,
        ttl_s: float,
        clock: Clock | None = None,
        ids: ObjectIds | None = None,
    ) -> None:
        self.backend = backend
        self.max_bytes = max_bytes
        self.ttl_s = ttl_s
        self.clock = clock or Clock()
        self.ids = ids or ObjectIds()
        self.usage = Usage()
        self.entries: dict[str, Entry] = {}
        self.evictions = 0
        self._changes: Changes = {}
        self.graph = ItemGraph(self._changes)
        self._owners: dict[str, Owner] = {}
        # All entries, the first one to expire first: each is kept for the same time.
        self._by_expiry: OrderedDict[str, Entry] = OrderedDict()

    def apply(self) -> None:
        """Pass the changes to the back end, which need not have written them at once."""
        if self._changes:
            self.backend.apply(dict(self._changes))
            self._changes.clear()

    async def commit(self) -> None:
        """Pass the changes to the back end, and wait until they are written.

        Raises:
            StoreUnavailable: they could not be written; the next call tries again.
        """
        self.apply()
        await self.backend.flush()

    def owner(self, name: str) -> Owner:
        """The owner with this name."""
        return self._owners.setdefault(name, Owner(name, self.usage))

    def find(self, kind: EntryKind, owner: str, id: str) -> Entry | None:
        """An owner's entry, which counts as used now; None for an unknown or another owner's id."""
        self.drop_expired()
        entry = self.entries.get(id)
        if entry is None or entry.kind != kind or entry.owner.name != owner:
            return None
        if id in entry.owner.evictable:
            entry.owner.evictable.move_to_end(id)
        return entry

    # ---------------------------------------------------------------- entries

    def add(
        self,
        kind: EntryKind,
        id: str,
        owner: Owner,
        *,
        status: Status,
        data: bytes,
        turn: Turn | None,
        created_at: float,
        is_background: bool = False,
    ) -> Entry:
        """Add an entry, which holds `turn`; an unfinished one is in use until it is finished."""
        entry = Entry(
            kind=kind,
            id=id,
            owner=owner,
            created_at=created_at,
            status=status,
            is_background=is_background,
            turn=turn,
            kept_from=self.clock.unix_s(),
            expires_at_s=self.clock.monotonic_s() + self.ttl_s,
            data_bytes=len(data),
        )
        self.graph.hold(turn)
        self._insert(entry)
        if status in UNFINISHED:
            self.use(entry)
        self._write(entry)
        self._changes[data_key(id)] = DataRow(data)
        return entry

    def set_data(self, entry: Entry, data: bytes) -> None:
        """Replace the data of an entry, and keep it from now on."""
        grown = len(data) - entry.data_bytes
        entry.data_bytes += grown
        self._count(entry, grown)
        self._changes[data_key(entry.id)] = DataRow(data)
        self._keep_from_now(entry)
        self._write(entry)

    def set_status(self, entry: Entry, status: Status) -> None:
        """Replace the status of an entry; a finished one may be evicted."""
        was_unfinished, entry.status = entry.status in UNFINISHED, status
        if was_unfinished and status not in UNFINISHED:
            self.end_use(entry)
        self._write(entry)

    def set_turn(self, entry: Entry, turn: Turn | None) -> None:
        """Replace the turn of an entry, which holds it, and keep the entry from now on."""
        former, entry.turn = entry.turn, turn
        self.graph.hold(turn)
        if entry.uses:
            self.graph.pin(turn)
            self.graph.unpin(former)
        self.graph.release(former)
        self._keep_from_now(entry)
        self._write(entry)

    def grow_log(self, entry: Entry, size: int) -> None:
        """Count more bytes, or fewer, of the replay log of an entry."""
        entry.log_bytes += size
        self._count(entry, size)

    def use(self, entry: Entry) -> None:
        """Protect an entry from eviction until `end_use`."""
        entry.uses += 1
        if entry.uses == 1 and not entry.is_removed:
            del entry.owner.evictable[entry.id]
            entry.owner.pin(entry.size)
            self.graph.pin(entry.turn)

    def end_use(self, entry: Entry) -> None:
        """End a `use`."""
        entry.uses -= 1
        if entry.uses == 0 and not entry.is_removed:
            entry.owner.evictable[entry.id] = entry
            entry.owner.pin(-entry.size)
            self.graph.unpin(entry.turn)

    def remove(self, entry: Entry) -> None:
        """Remove an entry, with what only it holds; nothing if it is removed already."""
        if entry.is_removed:
            return
        entry.is_removed = True
        del self.entries[entry.id], self._by_expiry[entry.id]
        if entry.uses:
            entry.owner.pin(-entry.size)
            self.graph.unpin(entry.turn)
        else:
            del entry.owner.evictable[entry.id]
        entry.owner.hold(-entry.size)
        self.graph.release(entry.turn)
        self._changes[entry_key(entry.id)] = self._changes[data_key(entry.id)] = None

    # ---------------------------------------------------------------- room

    def make_room(self, owner: Owner, size: int) -> bool:
        """Evict until `owner` may hold `size` more bytes; False if it may not.

        Nothing is evicted for what is too large in any case.
        """
        self.drop_expired()
        if size + self.usage.pinned_bytes > self.max_bytes:
            return False
        loser: Owner | None = owner
        while self.usage.held_bytes + size > self.max_bytes and loser is not None:
            loser = self._largest_evictable(owner, size)
            if loser is not None:
                self._evict(next(iter(loser.evictable.values())))
        # Also where it was in vain.
        self.apply()
        return loser is not None

    def may_pin(self, owner: Owner, size: int) -> bool:
        """Whether `owner` may pin `size` more bytes: no more in all than is left for others."""
        return owner.pinned_bytes + size <= self.max_bytes - self.usage.pinned_bytes - size

    def drop_expired(self) -> None:
        """Evict the entries whose time is over, unless they are in use."""
        now = self.clock.monotonic_s()
        while (entry := next(iter(self._by_expiry.values()), None)) is not None:
            if entry.expires_at_s > now:
                break
            if entry.uses:
                self._keep_from_now(entry)
            else:
                self._evict(entry)
        self.apply()

    def _largest_evictable(self, asking: Owner, size: int) -> Owner | None:
        """The owner that loses an entry: the one that holds most, if above an equal share."""
        owners = [o for o in self._owners.values() if o.held_bytes or o is asking]
        share = self.max_bytes / len(owners)
        candidates = [
            owner
            for owner in owners
            if owner.evictable and (owner is asking or owner.held_bytes > share)
        ]
        return max(
            candidates,
            key=lambda owner: owner.held_bytes + (size if owner is asking else 0),
            default=None,
        )

    def _evict(self, entry: Entry) -> None:
        self.evictions += 1
        self.remove(entry)

    # ---------------------------------------------------------------- after a restart

    def restore(self, id: str, row: EntryRow, data_bytes: int) -> Entry:
        """Insert an entry that a back end has kept, after its turns, in the order of `kept_from`.

        Raises:
            KeyError: its turn is missing.
        """
        age_s = min(max(self.clock.unix_s() - row.kept_from, 0), self.ttl_s)
        entry = Entry(
            kind=row.kind,
            id=id,
            owner=self.owner(row.owner),
            created_at=row.created_at,
            status=row.status,
            is_background=row.is_background,
            turn=self.graph.turns[row.turn] if row.turn else None,
            kept_from=row.kept_from,
            expires_at_s=self.clock.monotonic_s() + self.ttl_s - age_s,
            data_bytes=data_bytes,
        )
        self.graph.hold(entry.turn)
        self._insert(entry)
        return entry

    def delete_row(self, key: RowKey) -> None:
        """Delete a row that a back end has kept, and that is not inserted."""
        self._changes[key] = None

    def set_failed(self, entry: Entry, data: bytes) -> None:
        """End a response that nothing makes any more."""
        entry.status = "failed"
        self.set_data(entry, data)

    # ---------------------------------------------------------------- parts

    def _insert(self, entry: Entry) -> None:
        self.entries[entry.id] = entry
        entry.owner.evictable[entry.id] = entry
        entry.owner.hold(entry.size)
        self._by_expiry[entry.id] = entry

    def _count(self, entry: Entry, size: int) -> None:
        if not entry.is_removed:
            entry.owner.hold(size)
            entry.owner.pin(size if entry.uses else 0)

    def _keep_from_now(self, entry: Entry) -> None:
        entry.kept_from = self.clock.unix_s()
        entry.expires_at_s = self.clock.monotonic_s() + self.ttl_s
        self._by_expiry.move_to_end(entry.id)

    def _write(self, entry: Entry) -> None:
        entry.version += 1
        self._changes[entry_key(entry.id)] = EntryRow(
            kind=entry.kind,
            owner=entry.owner.name,
            created_at=entry.created_at,
            kept_from=entry.kept_from,
            status=entry.status,
            is_background=entry.is_background,
            turn=0 if entry.turn is None else entry.turn.key,
        )
