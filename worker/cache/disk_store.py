"""The prompt cache on disk: prefixes that outlive the worker, one file a span.

A file is found by what it is about and by nothing else: its folder is named by the
model's content, its name tells how many tokens it reaches to and the hash of all
of them. Three threads meet here. The device's `put`s spans and `take`s what was
read; the intake `fetch`es for a prompt that comes; a writer of its own writes.
Losing a file costs time only, so no fault here is an error of a request.
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

from worker.cache.serialization import DamagedFile, SerializedNode, encode, read

logger = logging.getLogger(__name__)

NAME = re.compile(r"(\d+)-([0-9a-f]{32})\.safetensors")
HASH_BYTES = 16
FOLDER_MODE = 0o700
FILE_MODE = 0o600
UNWRITTEN_BYTES = 1 << 30
"""Spans that wait for the writer hold at most this much memory; more are not kept on disk."""
FETCHED_PROMPTS = 32


class DiskStore:
    """One folder of spans within a limit in bytes. It is made if it is not there."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[Path, int] = OrderedDict()  # oldest first
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
        """What the files take."""
        return self._bytes

    def fetch(self, model: str, tokens: Sequence[int]) -> None:
        """Read the spans that `tokens` begin with and that memory does not hold."""
        chain = [path for path in self._chain(model, tokens) if path not in self._in_memory]
        for path in chain:
            if (packed := self._read(path)) is None:
                return
            with self._lock:
                self._fetched[path] = packed
                while len(self._fetched) > FETCHED_PROMPTS:
                    self._fetched.popitem(last=False)

    def take(self, model: str, tokens: Sequence[int]) -> list[SerializedNode]:
        """What `fetch` has read for `tokens`, the first span first."""
        if not self._fetched:
            return []
        with self._lock:
            chain = self._chain_of(model, tokens, self._fetched.keys() | self._in_memory)
            taken = [self._fetched.pop(path) for path in chain if path in self._fetched]
            self._in_memory.update(chain)
        return taken

    def put(self, model: str, tokens: Sequence[int], packed: SerializedNode) -> None:
        """Write a span soon. Its arrays must not change from now on."""
        path = self._path(model, packed.length, _hashes(tokens, [packed.length])[packed.length])
        with self._lock:
            self._in_memory.add(path)
            if path in self._sizes or self._unwritten_bytes + packed.nbytes > UNWRITTEN_BYTES:
                return
            self._unwritten_bytes += packed.nbytes
        self._queue.put((path, packed))

    def forget(self, model: str, tokens: Sequence[int]) -> None:
        """Memory no longer holds the span that ends with `tokens`; its file stays."""
        length = len(tokens)
        with self._lock:
            self._in_memory.discard(self._path(model, length, _hashes(tokens, [length])[length]))

    def forget_model(self, model: str) -> None:
        """Memory holds nothing of this model; its files stay."""
        folder = self._folder / model
        with self._lock:
            self._in_memory = {path for path in self._in_memory if path.parent != folder}

    def close(self, timeout_s: float | None = None) -> None:
        """Write what waits, and end the writer; what is not written by then is lost."""
        self._queue.put(None)
        self._writer.join(timeout_s)

    def _path(self, model: str, length: int, hash: str) -> Path:
        return self._folder / model / f"{length}-{hash}.safetensors"

    def _chain(self, model: str, tokens: Sequence[int]) -> list[Path]:
        with self._lock:
            return self._chain_of(model, tokens, self._sizes.keys() | self._in_memory)

    def _chain_of(self, model: str, tokens: Sequence[int], known: set[Path]) -> list[Path]:
        """The files of the prefixes of `tokens`, the shortest first, but of all of them none."""
        folder = self._folder / model
        lengths = {int(path.name.split("-")[0]) for path in known if path.parent == folder}
        hashes = _hashes(tokens, sorted(n for n in lengths if n < len(tokens)))
        paths = [self._path(model, length, hash) for length, hash in hashes.items()]
        return [path for path in paths if path in known]

    def _read(self, path: Path) -> SerializedNode | None:
        try:
            packed = read(path)
            os.utime(path)
        except (OSError, DamagedFile) as error:
            logger.warning("prompt cache: %s is ignored: %s", path.name, error)
            with self._lock:
                self._drop(path)
            return None
        with self._lock:
            if path in self._sizes:
                self._sizes.move_to_end(path)
        return packed

    def _scan(self) -> None:
        found = []
        for path in self._folder.glob("*/*"):
            if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                status = path.stat()
                found.append((status.st_mtime_ns, path, status.st_size))
            else:
                logger.warning("prompt cache: %s is not ours and is ignored", path)
        for _, path, size in sorted(found):
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
            self._drop(next(iter(self._sizes)))

    def _drop(self, path: Path) -> None:
        self._bytes -= self._sizes.pop(path, 0)
        path.unlink(missing_ok=True)


def _hashes(tokens: Sequence[int], lengths: Sequence[int]) -> dict[int, str]:
    """The hash of the first n tokens for each n of `lengths`, which rise."""
    content = np.asarray(tokens, np.int32).data
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    hashes = {}
    done = 0
    for length in lengths:
        digest.update(content[done:length])
        hashes[length] = digest.hexdigest()
        done = length
    return hashes
