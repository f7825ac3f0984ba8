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

from protocol.units import format_bytes
from worker.cache.cache_folder import (
    FOLDER_MODE,
    default_reserve_bytes,
    find_earlier_folders,
    free_bytes,
    open_subfolder,
)
from worker.cache.file_index import FileIndex, NodeName, PrefixHashes, name_of, parse_name
from worker.cache.serialization import DamagedFile, SerializedNode, encode, read_file

logger = logging.getLogger(__name__)

FILE_MODE = 0o600
DRAFT_SUFFIX = ".draft"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_UNWRITTEN_BYTES = 1 << 30
"""The most memory of nodes that wait for the writer; more nodes are not written."""
MAX_FETCHED_NODES = 32


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
        self._disk_is_full = False
        self._unwritten_bytes = 0
        self._in_memory: set[NodeName] = set()
        self._fetched: OrderedDict[NodeName, SerializedNode] = OrderedDict()
        self._queue: queue.SimpleQueue[tuple[NodeName, SerializedNode] | None] = queue.SimpleQueue()
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
        """Read the files of the prefixes of `tokens` that are not in memory."""
        with self._lock:
            names = [n for n in self._index.find(model, tokens) if n not in self._in_memory]
        for name in names:
            if (packed := self._read_node(name)) is None:
                return
            with self._lock:
                self._fetched[name] = packed
                while len(self._fetched) > MAX_FETCHED_NODES:
                    self._fetched.popitem(last=False)

    def take_fetched(self, model: str, tokens: Sequence[int]) -> list[SerializedNode]:
        """Remove and return the nodes that `fetch` has read for `tokens`, from the root on."""
        if not self._fetched:
            return []
        hashes = PrefixHashes(tokens)
        with self._lock:
            names = sorted(n for n in self._fetched if n.model == model and n.length < len(tokens))
            # Sorted by model, which is the same, and length.
            own = [name for name in names if hashes.hash(name.length) == name.hash]
            self._in_memory.update(own)
            return [self._fetched.pop(name) for name in own]

    def put(self, model: str, tokens: Sequence[int], packed: SerializedNode) -> None:
        """Queue a node to be written. Its arrays must not change from now on."""
        name = name_of(model, tokens[: packed.length])
        with self._lock:
            self._in_memory.add(name)
            if name in self._index or self._unwritten_bytes + packed.nbytes > MAX_UNWRITTEN_BYTES:
                return
            self._unwritten_bytes += packed.nbytes
        self._queue.put((name, packed))

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
        return self._folder / name.model / name.file_name

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
        found: list[tuple[int, NodeName, int]] = []
        foreign: list[str] = []
        for entry in [file for folder in _folders(self._folder) for file in os.scandir(folder)]:
            path = Path(entry.path)
            if path.suffix == DRAFT_SUFFIX:
                self._unlink(path)
            elif entry.is_file(follow_symlinks=False) and (
                name := parse_name(path.parent.name, path.name)
            ):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, name, status.st_size))
            else:
                foreign.append(entry.path)
        for _, name, size in sorted(found):
            self._index.add(name, size)
        if foreign:
            logger.warning(
                "prompt cache: %s is not a cache file and is ignored (%d in all)",
                min(foreign),
                len(foreign),
            )

    def _write_all(self) -> None:
        while (job := self._queue.get()) is not None:
            name, packed = job
            try:
                self._write(name, encode(packed))
            except OSError as error:
                logger.warning("prompt cache: %s cannot be written: %s", name.file_name, error)
            with self._lock:
                self._unwritten_bytes -= packed.nbytes

    def _write(self, name: NodeName, content: bytes) -> None:
        """Write a file, if there is room for it.

        Raises:
            OSError: it cannot be written.
        """
        if len(content) > self._limit_bytes or not self._has_room(len(content)):
            return
        try:
            self._write_draft(name, content)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            # A quota, or another process was quicker.
            self._evict(len(content))
            self._write_draft(name, content)
        with self._lock:
            self._index.add(name, len(content))

    def _write_draft(self, name: NodeName, content: bytes) -> None:
        path = self._path(name)
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
        if (shortage > 0) != self._disk_is_full:
            self._disk_is_full = shortage > 0
            logger.warning(
                "prompt cache: %s; %s stay free on its disk",
                "nothing is written" if self._disk_is_full else "files are written again",
                format_bytes(self._reserve_bytes),
            )
        return shortage <= 0

    def _evict(self, nbytes: int) -> None:
        """Delete the least recently used files with at least `nbytes` in all."""
        with self._lock:
            names = self._index.pop_oldest(nbytes) if nbytes > 0 else []
        for name in names:
            self._unlink(self._path(name))

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("prompt cache: %s cannot be deleted: %s", path, error)


def _folders(folder: Path) -> list[Path]:
    """The folders of the models."""
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
