"""The prompt cache on disk: prefixes that survive a restart of the worker, a file for each node.

Files are content-addressed: the folder is named by the model's content key, and the file
by the number of tokens from the root to the node's end and the hash of these tokens.
Three threads use the store. The device's thread calls `put` and `take_fetched`, the intake calls
`fetch` for a new prompt, and the store's own thread writes files. A lost file costs only
time, so no failure here fails a request.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.cache.serialization import DamagedFile, SerializedNode, encode, read_file

logger = logging.getLogger(__name__)

NAME = re.compile(r"(\d+)-([0-9a-f]{32})\.safetensors")
HASH_BYTES = 16
FOLDER_MODE = 0o700
FILE_MODE = 0o600
MAX_UNWRITTEN_BYTES = 1 << 30
"""The most memory of nodes that wait for the writer; more nodes are not written."""
MAX_FETCHED_NODES = 32


class DiskStore:
    """A folder of node files within a limit in bytes; it is created where it is missing."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[Path, int] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._unwritten_bytes = 0
        self._in_memory: set[Path] = set()
        self._fetched: OrderedDict[Path, SerializedNode] = OrderedDict()
        self._queue: queue.SimpleQueue[tuple[Path, SerializedNode] | None] = queue.SimpleQueue()
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        self._scan()
        self._writer = threading.Thread(target=self._write_all, name="cache-writer", daemon=True)
        self._writer.start()

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        return self._bytes

    def fetch(self, model: str, tokens: Sequence[int]) -> None:
        """Read the files of the prefixes of `tokens` that are not in memory."""
        chain = [path for path in self._chain(model, tokens) if path not in self._in_memory]
        for path in chain:
            if (packed := self._read_node(path)) is None:
                return
            with self._lock:
                self._fetched[path] = packed
                while len(self._fetched) > MAX_FETCHED_NODES:
                    self._fetched.popitem(last=False)

    def take_fetched(self, model: str, tokens: Sequence[int]) -> list[SerializedNode]:
        """Remove and return the nodes that `fetch` has read for `tokens`, from the root on."""
        if not self._fetched:
            return []
        with self._lock:
            chain = self._chain_of(model, tokens, self._fetched.keys() | self._in_memory)
            taken = [self._fetched.pop(path) for path in chain if path in self._fetched]
            self._in_memory.update(chain)
        return taken

    def put(self, model: str, tokens: Sequence[int], packed: SerializedNode) -> None:
        """Queue a node to be written. Its arrays must not change from now on."""
        path = self._path(model, packed.length, _hashes(tokens, [packed.length])[packed.length])
        with self._lock:
            self._in_memory.add(path)
            if path in self._sizes or self._unwritten_bytes + packed.nbytes > MAX_UNWRITTEN_BYTES:
                return
            self._unwritten_bytes += packed.nbytes
        self._queue.put((path, packed))

    def mark_evicted(self, model: str, tokens: Sequence[int]) -> None:
        """Note that the node after `tokens` is no longer in memory; its file stays."""
        length = len(tokens)
        with self._lock:
            self._in_memory.discard(self._path(model, length, _hashes(tokens, [length])[length]))

    def mark_model_evicted(self, model: str) -> None:
        """Note that no node of this model is in memory; its files stay."""
        folder = self._folder / model
        with self._lock:
            self._in_memory = {path for path in self._in_memory if path.parent != folder}

    def close(self, timeout_s: float | None = None) -> None:
        """Write the queued nodes and stop the writer; nodes left at the timeout are lost."""
        self._queue.put(None)
        self._writer.join(timeout_s)

    def _path(self, model: str, length: int, hash: str) -> Path:
        return self._folder / model / f"{length}-{hash}.safetensors"

    def _chain(self, model: str, tokens: Sequence[int]) -> list[Path]:
        with self._lock:
            return self._chain_of(model, tokens, self._sizes.keys() | self._in_memory)

    def _chain_of(self, model: str, tokens: Sequence[int], known: set[Path]) -> list[Path]:
        """The known files of the proper prefixes of `tokens`, the shortest first."""
        folder = self._folder / model
        lengths = {int(path.name.split("-")[0]) for path in known if path.parent == folder}
        hashes = _hashes(tokens, sorted(n for n in lengths if n < len(tokens)))
        paths = [self._path(model, length, hash) for length, hash in hashes.items()]
        return [path for path in paths if path in known]

    def _read_node(self, path: Path) -> SerializedNode | None:
        try:
            packed = read_file(path)
            os.utime(path)
        except (OSError, DamagedFile) as error:
            logger.warning("prompt cache: %s is ignored: %s", path.name, error)
            with self._lock:
                self._delete(path)
            return None
        with self._lock:
            if path in self._sizes:
                self._sizes.move_to_end(path)
        return packed

    def _scan(self) -> None:
        files = []
        for path in self._folder.glob("*/*"):
            if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                status = path.stat()
                files.append((status.st_mtime_ns, path, status.st_size))
            else:
                logger.warning("prompt cache: %s is not a cache file and is ignored", path)
        for _, path, size in sorted(files):
            self._sizes[path] = size
            self._bytes += size
        with self._lock:
            self._make_room(0)

    def _write_all(self) -> None:
        while (job := self._queue.get()) is not None:
            path, packed = job
            try:
                self._write(path, encode(packed))
            except OSError as error:
                logger.warning("prompt cache: %s cannot be written: %s", path.name, error)
            with self._lock:
                self._unwritten_bytes -= packed.nbytes

    def _write(self, path: Path, content: bytes) -> None:
        if len(content) > self._limit_bytes:
            return
        with self._lock:
            self._make_room(len(content))
        path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        draft = path.with_suffix(".draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
        with self._lock:
            self._sizes[path] = len(content)
            self._bytes += len(content)

    def _make_room(self, needed_bytes: int) -> None:
        while self._sizes and self._bytes + needed_bytes > self._limit_bytes:
            self._delete(next(iter(self._sizes)))

    def _delete(self, path: Path) -> None:
        self._bytes -= self._sizes.pop(path, 0)
        path.unlink(missing_ok=True)


def _hashes(tokens: Sequence[int], lengths: Sequence[int]) -> dict[int, str]:
    """The hash of the first n tokens for each n of `lengths`, which are in ascending order."""
    content = np.asarray(tokens, np.int32).data
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    hashes = {}
    hashed = 0
    for length in lengths:
        digest.update(content[hashed:length])
        hashes[length] = digest.hexdigest()
        hashed = length
    return hashes
