"""The prompt cache on disk: prefixes that survive a restart of the worker, a file for each node.

Files are content-addressed (`file_index`): the folder is named by the model's content key, and
the file by the number of tokens from the root to the node's end and the hash of these tokens.
Three threads use the store. The device's thread calls `put` and `take_fetched`, the intake calls
`fetch` for a new prompt, and the store's own thread writes files. A lost file costs only
time, so no failure here fails a request.

A file is written as a draft first, which counts like a file, and is removed if it cannot be
completed. Before each write the least recently used files are evicted, so that the files stay
within their limit and the file system keeps a reserve of free space.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from worker.cache.cache_folder import (
    FOLDER_MODE,
    RoomState,
    default_reserve_bytes,
    find_earlier_folders,
    free_bytes,
    open_subfolder,
)
from worker.cache.file_index import (
    BLOCK_TOKENS,
    Beginning,
    FileIndex,
    NodeName,
    PrefixHashes,
    beginning_of,
    name_of,
    parse_name,
)
from worker.cache.radix_node import shared_length
from worker.cache.serialization import (
    DamagedFile,
    SerializedNode,
    encode,
    read_file,
    read_tokens,
)

logger = logging.getLogger(__name__)

FILE_MODE = 0o600
DRAFT_SUFFIX = ".draft"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_UNWRITTEN_BYTES = 1 << 30
"""The most memory of nodes that wait for the writer; more nodes are not written."""
MAX_FETCHED_BYTES = 1 << 30
"""The most memory of nodes that were read and not taken, unless `PrefixCache` sets another."""
MAX_COMPARED_FILES = 16
"""How many files a look-up opens to see how far their tokens agree."""
MIN_PART_TOKENS = 16
"""A shorter part of a file is not worth reading it."""


Job = tuple[NodeName, Beginning | None, SerializedNode]
"""A node to be written, and where it begins if it can be cut."""


class DiskStore:
    """Node files in a subfolder of `folder`, within a limit in bytes.

    They are evicted as long as the file system has less than `reserve_bytes` free; 0 is 1 GiB or
    5 % of the file system, whichever is less.

    Raises:
        FolderRefused: the subfolder exists and others can use it.
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int, reserve_bytes: int = 0) -> None:
        self._folder = open_subfolder(folder)
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes or default_reserve_bytes(self._folder)
        self._lock = threading.Lock()
        self._index = FileIndex()
        self._draft_bytes = 0
        self._room = RoomState(self._reserve_bytes)
        self._unwritten_bytes = 0
        self._in_memory: set[NodeName] = set()
        self.fetched_limit_bytes = MAX_FETCHED_BYTES
        self._fetched: OrderedDict[NodeName, SerializedNode] = OrderedDict()
        # Nodes of which only the beginning is that of the prompt.
        self._parts: OrderedDict[NodeName, SerializedNode] = OrderedDict()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._scan()
        self._has_room(0)
        if earlier := find_earlier_folders(folder):
            logger.warning(
                "prompt cache: files of an earlier version are ignored and can be deleted: %s",
                ", ".join(map(str, earlier)),
            )
        self._writer = threading.Thread(target=self._write_all, name="cache-writer", daemon=True)
        self._writer.start()

    @property
    def folder(self) -> Path:
        """The subfolder of our own."""
        return self._folder

    @property
    def nbytes(self) -> int:
        """The bytes of all files, drafts included."""
        return self._index.nbytes + self._draft_bytes

    def fetch(self, model: str, tokens: Sequence[int]) -> None:
        """Read the files of the prefixes of `tokens` that are not in memory.

        Where another prompt goes on from them, its file is read, too, for what both have in
        common. A node in memory has all that comes before it.
        """
        with self._lock:
            needed = self._index.needed_length(model, len(tokens))
        # Converted and hashed outside of the lock, for which the device's thread may wait.
        hashes = PrefixHashes(tokens if len(tokens) == needed else tokens[:needed])
        hashes.hash_blocks(needed // BLOCK_TOKENS)
        with self._lock:
            known = self._index.find(model, hashes)
            held = [index for index, name in enumerate(known) if name in self._in_memory]
            names = known[held[-1] + 1 :] if held else known
            names = self._fitting(names)
        for name in names:
            if (packed := self._read_node(name)) is None:
                return
            with self._lock:
                self._keep_fetched(self._fetched, name, packed, names)
        self._fetch_part(model, tokens, hashes, known)

    def _fitting(self, names: list[NodeName]) -> list[NodeName]:
        """The first of these files, as far as the memory for what is read holds them."""
        fitting, total = [], 0
        for name in names:
            total += self._index.size(name)
            if total > self.fetched_limit_bytes:
                break
            fitting.append(name)
        return fitting

    def _keep_fetched(
        self,
        fetched: OrderedDict[NodeName, SerializedNode],
        name: NodeName,
        packed: SerializedNode,
        needed: Sequence[NodeName],
    ) -> None:
        """Keep what was read until it is taken; the oldest goes, except what is `needed`."""
        fetched[name] = packed
        held = sum(each.nbytes for each in (*self._fetched.values(), *self._parts.values()))
        for nodes in (self._parts, self._fetched):
            for other in [each for each in nodes if each != name and each not in needed]:
                if held <= self.fetched_limit_bytes:
                    return
                held -= nodes.pop(other).nbytes

    def _fetch_part(
        self, model: str, tokens: Sequence[int], hashes: PrefixHashes, known: list[NodeName]
    ) -> None:
        """Read the file that has most in common with `tokens` beyond the `known` prefixes."""
        lengths = [0, *(name.length for name in known)]
        with self._lock:
            names = self._index.find_beginning(model, hashes, lengths)
            names = [n for n in names if n not in self._in_memory and n not in known]
            begins = [self._index.beginning(name) for name in names]
        best, most = None, lengths[-1] + MIN_PART_TOKENS
        for name, beginning in list(zip(names, begins, strict=True))[:MAX_COMPARED_FILES]:
            if beginning is not None:
                agreeing = shared_length(self._read_tokens(name), tokens[beginning.length :])
                if beginning.length + agreeing >= most:
                    best, most = name, beginning.length + agreeing
        if best is not None and self._fitting([best]) and (packed := self._read_node(best)):
            with self._lock:
                self._keep_fetched(self._parts, best, packed, known)

    def _read_tokens(self, name: NodeName) -> list[int]:
        try:
            return read_tokens(self._path(name))
        except (OSError, DamagedFile):
            # Whoever reads the whole file says so.
            return []

    def take_fetched(self, model: str, tokens: Sequence[int]) -> list[SerializedNode]:
        """Remove and return the nodes that `fetch` has read for `tokens`, from the root on."""
        if not self._fetched and not self._parts:
            return []
        with self._lock:
            names = sorted(n for n in self._fetched if n.model == model and n.length < len(tokens))
            hashes = PrefixHashes(tokens[: names[-1].length] if names else ())
            # Sorted by model, which is the same, and length.
            own = [name for name in names if hashes.hash(name.length) == name.hash]
            self._in_memory.update(own)
            taken = [self._fetched.pop(name) for name in own]
            return [*taken, *self._take_parts(model, tokens)]

    def _take_parts(self, model: str, tokens: Sequence[int]) -> list[SerializedNode]:
        """Remove and return the nodes that these tokens have a part of; others are for others."""
        parts = [
            (name, beginning)
            for name in self._parts
            if name.model == model and (beginning := self._index.beginning(name)) is not None
        ]
        own = [
            name
            for name, place in parts
            if beginning_of(tokens, place.length) == place
            and shared_length(self._parts[name].tokens or [], tokens[place.length :])
            >= MIN_PART_TOKENS
        ]
        return [self._parts.pop(name) for name in own]

    def put(self, model: str, tokens: Sequence[int], packed: SerializedNode) -> None:
        """Queue a node to be written. Its arrays must not change from now on."""
        name = name_of(model, tokens[: packed.length])
        beginning = None if packed.tokens is None else beginning_of(tokens, packed.start)
        with self._lock:
            self._in_memory.add(name)
            if name in self._index or self._unwritten_bytes + packed.nbytes > MAX_UNWRITTEN_BYTES:
                return
            self._unwritten_bytes += packed.nbytes
        self._queue.put((name, beginning, packed))

    def mark_evicted(self, model: str, tokens: Sequence[int]) -> None:
        """Note that the node after `tokens` is no longer in memory; its file stays."""
        name = name_of(model, tokens)
        with self._lock:
            self._in_memory.discard(name)

    def mark_model_evicted(self, model: str) -> None:
        """Note that no node of this model is in memory; its files stay."""
        with self._lock:
            self._in_memory = {name for name in self._in_memory if name.model != model}

    def close(self, timeout_s: float | None = None) -> None:
        """Write the queued nodes and stop the writer; nodes left at the timeout are lost."""
        self._queue.put(None)
        self._writer.join(timeout_s)

    def _path(self, name: NodeName) -> Path:
        return self._folder / name.model / name.file_name(self._index.beginning(name))

    def _read_node(self, name: NodeName) -> SerializedNode | None:
        path = self._path(name)
        try:
            packed = read_file(path)
            os.utime(path)
        except (OSError, DamagedFile) as error:
            logger.warning("prompt cache: %s is ignored: %s", path.name, error)
            with self._lock:
                self._index.remove(name)
            self._unlink(path)
            return None
        with self._lock:
            self._index.touch(name)
        return packed

    def _scan(self) -> None:
        """Index all files, and remove the drafts that an earlier process has left."""
        found: list[tuple[int, NodeName, int, Beginning | None]] = []
        foreign: list[str] = []
        for entry in [file for folder in _folders(self._folder) for file in os.scandir(folder)]:
            path = Path(entry.path)
            if path.suffix == DRAFT_SUFFIX:
                self._unlink(path)
            elif entry.is_file(follow_symlinks=False) and (
                parsed := parse_name(path.parent.name, path.name)
            ):
                name, beginning = parsed
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, name, status.st_size, beginning))
            else:
                foreign.append(entry.path)
        for _, name, size, beginning in sorted(found, key=lambda each: each[:3]):
            self._index.add(name, size, beginning)
        if foreign:
            logger.warning(
                "prompt cache: %s is not a cache file and is ignored (%d in all)",
                min(foreign),
                len(foreign),
            )

    def _write_all(self) -> None:
        while (job := self._queue.get()) is not None:
            name, beginning, packed = job
            try:
                self._write(name, beginning, encode(packed))
            except OSError as error:
                logger.warning("prompt cache: %s cannot be written: %s", name.file_name(), error)
            with self._lock:
                self._unwritten_bytes -= packed.nbytes

    def _write(self, name: NodeName, beginning: Beginning | None, content: bytes) -> None:
        """Write a file, if there is room for it.

        Raises:
            OSError: it cannot be written.
        """
        if len(content) > self._limit_bytes or not self._has_room(len(content)):
            return
        try:
            self._write_draft(name, beginning, content)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            # A quota, or another process was quicker.
            self._evict(len(content))
            self._write_draft(name, beginning, content)
        with self._lock:
            self._index.add(name, len(content), beginning)

    def _write_draft(self, name: NodeName, beginning: Beginning | None, content: bytes) -> None:
        path = self._folder / name.model / name.file_name(beginning)
        path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}{DRAFT_SUFFIX}")
        self._draft_bytes = len(content)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(draft, flags, FILE_MODE), "wb") as file:
                file.write(content)
            draft.replace(path)
        except BaseException:
            self._unlink(draft)
            raise
        finally:
            self._draft_bytes = 0

    def _has_room(self, needed: int) -> bool:
        """Evict files until `needed` bytes fit within the limit and above the reserve.

        Nothing is evicted for a file that does not fit even so.
        """
        excess = self._index.nbytes + needed - self._limit_bytes
        self._evict(max(excess, self._reserve_bytes - free_bytes(self._folder)))
        shortage = self._reserve_bytes + needed - free_bytes(self._folder)
        if 0 < shortage <= self._index.nbytes:
            self._evict(shortage)
            shortage = self._reserve_bytes + needed - free_bytes(self._folder)
        self._room.update(needed, needed - shortage + self._index.nbytes)
        return shortage <= 0

    def _evict(self, nbytes: int) -> None:
        """Delete the least recently used files with at least `nbytes` in all."""
        with self._lock:
            names = self._index.list_oldest(nbytes)
            paths = [self._path(name) for name in names]
            for name in names:
                self._index.remove(name)
        for path in paths:
            self._unlink(path)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("prompt cache: %s cannot be deleted: %s", path, error)


def _folders(folder: Path) -> list[Path]:
    """The folders of the models."""
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
