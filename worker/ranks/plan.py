"""What rank 0 sends to the other ranks: the calls that change an engine, and what it has decided.

A plan has these in the order of rank 0's own calls. Whatever could differ between two processes
is in it: what depends on time, on memory or on text. All else follows from the same calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from protocol.batching import BatchRules
from protocol.messages import Sampling
from protocol.quantisation import KVBits
from protocol.ranks import Split
from protocol.structs import Data, Message
from worker.engine.batches.model_errors import FailedRow
from worker.engine.engine import Token

DIGEST_BYTES = 16


class Prepare(Message, frozen=True):
    """The first one: the device's limits, as in `Configure`."""

    memory_limit_bytes: int
    cache_limit_bytes: int


class ModelFiles(Data, frozen=True):
    """Where a model's files are on every host: `source` and `revision` are as in its settings."""

    source: str | None
    revision: str | None


class CompareFiles(Message, frozen=True):
    """Compare a model's files with these of rank 0, and answer with `Compared`."""

    files: ModelFiles
    contents: dict[str, str]


class BuildModel(Message, frozen=True):
    """Build the modules of a model, and keep this rank's part of the weights."""

    model: int
    files: ModelFiles
    trusted: bool
    split: Split


class ReadWeights(Message, frozen=True):
    """Read weights of a model until this share of this rank's bytes is read."""

    model: int
    share: float


class MakeCache(Message, frozen=True):
    """Make a prompt cache of at most so many bytes."""

    cache: int
    limit_bytes: int


class DropPrefixes(Message, frozen=True):
    """Remove all prefixes of a model from a prompt cache."""

    cache: int
    model: str


class ShrinkCache(Message, frozen=True):
    """Evict from a prompt cache until at most so many bytes are held."""

    cache: int
    limit_bytes: int


class MakeEngine(Message, frozen=True):
    """Make the engine of a model; `cache` is the number of its prompt cache, -1 for none."""

    engine: int
    model: int
    cache: int
    name: str
    max_running: int
    max_tokens: int
    max_rows: int
    compiled_sampling: bool
    speculates: bool
    kv_bits: KVBits


class SetRules(Message, frozen=True):
    """Set what the rows of an engine may share."""

    engine: int
    rules: BatchRules


class Forget(Message, frozen=True):
    """Free a model, a prompt cache or an engine: rank 0 has freed it."""

    kind: Literal["model", "cache", "engine"]
    number: int


class Insert(Message, frozen=True):
    """Insert a row. The last `position` tokens of its prompt are those of its answer so far.

    With `constrained` each of its draws has a `Mask`. `scored` is the number of alternatives
    that are scored for each token of the prompt, None without scores.
    """

    engine: int
    id: int
    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    stop_token_ids: list[int]
    position: int
    priority: int
    breakpoints: list[int]
    alone: bool
    constrained: bool = False
    logprobs: int | None = None
    scored: int | None = None


class Remove(Message, frozen=True):
    """Remove rows."""

    engine: int
    ids: list[int]


class Advance(Message, frozen=True):
    """Make one step of an engine, with a slice of prefill or without."""

    engine: int
    prefills: bool


class ChosenSlice(Message, frozen=True):
    """The size that rank 0 has chosen for a slice of prefill."""

    rows: int
    tokens: int


class ChosenDrafts(Message, frozen=True):
    """What rank 0 drafts for each row of a batch behind its next token; None: a plain pass."""

    drafts: list[list[int]] | None = None


class Mask(Message, frozen=True):
    """The mask of a constrained row's next draw, packed as in `bitmask`; None allows all.

    `fault` is the error of a constraint that has failed.
    """

    id: int
    words: bytes | None = None
    fault: str | None = None


Entry = (
    Prepare
    | CompareFiles
    | BuildModel
    | ReadWeights
    | MakeCache
    | DropPrefixes
    | ShrinkCache
    | MakeEngine
    | SetRules
    | Forget
    | Insert
    | Remove
    | Advance
    | ChosenSlice
    | ChosenDrafts
    | Mask
)


class Plan(Message, frozen=True):
    """Some entries, and the digest of all tokens that were drawn before them."""

    digest: bytes
    entries: list[Entry]


class Compared(Message, frozen=True):
    """A rank's answer to `CompareFiles`: how its files differ; None if they do not."""

    difference: str | None


class Failed(Message, frozen=True):
    """The last message of a rank that ends, with the reason."""

    reason: str


FromRank = Compared | Failed

encode = msgspec.msgpack.Encoder().encode
decode_plan = msgspec.msgpack.Decoder(Plan).decode
decode_answer = msgspec.msgpack.Decoder(FromRank).decode


class TokenDigest:
    """Of all steps of all engines, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, tokens: Iterable[Token], failed: Iterable[FailedRow], cached_bytes: int) -> None:
        """Add the result of a step, and the bytes that its prompt cache holds now."""
        drawn = [(token.id, token.token, token.reason) for token in tokens]
        self._hash.update(repr((drawn, [row.id for row in failed], cached_bytes)).encode())

    def read(self) -> bytes:
        """The digest so far."""
        return self._hash.digest()[:DIGEST_BYTES]
