"""Another rank's engines: they make the calls of rank 0's plans, with its decisions."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from worker.cache.prefix_cache import PrefixCache
from worker.drafts.drafter import Draft
from worker.engine.attention_cost import AttentionCost
from worker.engine.batches.speculation.speculation import Drafts, Speculation
from worker.engine.bitmask import BitMask
from worker.engine.engine import Engine
from worker.engine.prefill_budget import (
    DeviceShare,
    PrefillBudget,
    PrefillLimits,
    Prompt,
    Slice,
)
from worker.engine.sampler import Row, make_row
from worker.engine.token_logprobs import PromptScorer
from worker.memory.budget import make_budget, return_freed_memory, set_limits
from worker.memory.device import describe_device
from worker.models.model_files import find_model_folder
from worker.models.weight_loader import slice_weights
from worker.ranks.joining.contents import describe_difference, read_contents
from worker.ranks.parts.cache_costs import count_parts
from worker.ranks.parts.choice import build_part
from worker.ranks.plan import (
    Advance,
    BuildModel,
    ChosenDrafts,
    ChosenSlice,
    Compared,
    CompareFiles,
    DropPrefixes,
    Entry,
    Forget,
    Insert,
    MakeCache,
    MakeEngine,
    Mask,
    ModelFiles,
    Plan,
    Prepare,
    ReadWeights,
    Remove,
    SetRules,
    ShrinkCache,
    TokenDigest,
)

logger = logging.getLogger(__name__)

Expected = TypeVar("Expected")


class RanksDisagree(BaseException):
    """This rank has drawn other tokens than rank 0, or makes other calls.

    It is no `Exception`: what catches the errors of one row or one model does not catch it.
    """


class PlanReader:
    """The entries of rank 0's plans, in their order; `receive` waits for the next plan."""

    def __init__(self, receive: Callable[[], Plan]) -> None:
        self._receive = receive
        self._entries: deque[Entry] = deque()
        self.digest = TokenDigest()

    def next(self) -> Entry:
        """The next entry.

        Raises:
            RanksDisagree: rank 0 has drawn other tokens.
        """
        while not self._entries:
            plan = self._receive()
            if plan.digest != self.digest.read():
                raise RanksDisagree("this rank has other tokens than rank 0")
            self._entries.extend(plan.entries)
        return self._entries.popleft()

    def expect(self, kind: type[Expected]) -> Expected:
        """The next entry, which must be of this kind.

        Raises:
            RanksDisagree: it is another one, or rank 0 has drawn other tokens.
        """
        entry = self.next()
        if not isinstance(entry, kind):
            raise RanksDisagree(
                f"this rank needs {kind.__name__} where rank 0 has {type(entry).__name__}"
            )
        return entry


class FollowingBudget(PrefillBudget):
    """Takes the slices that rank 0 has chosen."""

    def __init__(
        self, limits: PrefillLimits, attention: AttentionCost | None = None, *, reader: PlanReader
    ) -> None:
        super().__init__(limits, attention)
        self._reader = reader

    def plan(self, decoding_rows: int, prompts: Sequence[Prompt], *, whole: bool = False) -> Slice:
        chosen = self._reader.expect(ChosenSlice)
        return Slice(chosen.rows, chosen.tokens)


class FollowingSpeculation(Speculation):
    """Verifies what rank 0 has drafted."""

    def __init__(self, reader: PlanReader) -> None:
        super().__init__()
        self._reader = reader

    def plan(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        chosen = self._reader.expect(ChosenDrafts).drafts
        return None if chosen is None else Drafts(read(), [Draft(tokens) for tokens in chosen])


class FollowedConstraint:
    """Takes the masks that rank 0 has made."""

    complete = False

    def __init__(self, id: int, reader: PlanReader) -> None:
        self._id = id
        self._reader = reader

    def accept(self, token: int) -> None:
        """Rank 0 has made the next mask with it."""

    def mask(self) -> BitMask | None:
        """The next mask.

        Raises:
            ValueError: the constraint has failed on rank 0.
        """
        mask = self._reader.expect(Mask)
        if mask.id != self._id:
            raise RanksDisagree(f"this rank needs the mask of row {self._id}, not {mask.id}")
        if mask.fault is not None:
            raise ValueError(mask.fault)
        return None if mask.words is None else np.frombuffer(mask.words, np.int32)


class WeightRead:
    """The weights of this rank's part of a model, which are read as rank 0 reads those of its own.

    The parts may be of unlike sizes.
    """

    def __init__(self, model: nn.Module) -> None:
        weights: list[mx.array] = [array for _, array in tree_flatten(model.parameters())]
        self._all_bytes = sum(array.nbytes for array in weights)
        self._read_bytes = 0
        self._slices = slice_weights(weights)

    def advance(self, share: float) -> None:
        """Read weights until this share of all bytes is read."""
        while self._read_bytes < share * self._all_bytes or share >= 1:
            if (weights := next(self._slices, None)) is None:
                return
            mx.eval(weights)
            self._read_bytes += sum(array.nbytes for array in weights)


class Follower:
    """The models, prompt caches and engines of this rank, by rank 0's numbers.

    `answer` sends to rank 0. This process is one of `shares` on its host.
    """

    def __init__(
        self,
        group: mx.distributed.Group,
        receive: Callable[[], Plan],
        answer: Callable[[Compared], None],
        shares: int,
    ) -> None:
        self._group = group
        self._answer = answer
        self._shares = shares
        self._reader = PlanReader(receive)
        self._models: dict[int, nn.Module] = {}
        self._reads: dict[int, WeightRead] = {}
        self._caches: dict[int, PrefixCache] = {}
        self._engines: dict[int, Engine] = {}
        self._cache_of: dict[int, int] = {}

    def run(self) -> None:
        """Make the calls of all plans; it ends with what `receive` raises.

        Raises:
            RanksDisagree: rank 0 has drawn other tokens, or makes other calls.
            RuntimeError: the device failed, or another rank is lost.
        """
        while True:
            self._apply(self._reader.next())

    def _apply(self, entry: Entry) -> None:
        match entry:
            case Advance(engine, prefills):
                self._step(engine, DeviceShare(prefills))
            case Insert():
                self._insert(entry)
            case Remove(engine, ids):
                self._engines[engine].remove(ids)
            case SetRules(engine, rules):
                self._engines[engine].rules = rules
            case ShrinkCache(cache, limit_bytes):
                self._caches[cache].shrink(limit_bytes)
            case DropPrefixes(cache, model):
                self._caches[cache].drop(model)
            case ReadWeights(model, share):
                self._reads[model].advance(share)
            case ChosenSlice() | ChosenDrafts() | Mask():
                raise RanksDisagree(f"this rank does not need rank 0's {type(entry).__name__}")
            case _:
                self._make(entry)

    def _make(self, entry: Entry) -> None:
        match entry:
            case Prepare(memory_limit_bytes, cache_limit_bytes):
                limits = memory_limit_bytes // self._shares, cache_limit_bytes // self._shares
                budget = make_budget(limits[0], 0, describe_device(), self._shares)
                set_limits(*limits, budget)
            case CompareFiles(files, contents):
                self._answer(Compared(compare_files(files, contents)))
            case BuildModel(model, files, trusted, split):
                part = build_part(folder_of(files), self._group, trusted=trusted, setting=split)
                self._models[model], self._reads[model] = part.model, WeightRead(part.model)
            case MakeCache(cache, limit_bytes):
                self._caches[cache] = PrefixCache(limit_bytes)
            case MakeEngine():
                self._make_engine(entry)
            case Forget(kind, number):
                kinds = {"model": self._models, "cache": self._caches, "engine": self._engines}
                kinds[kind].pop(number, None)
                self._reads.pop(number, None)
                return_freed_memory()

    def _make_engine(self, entry: MakeEngine) -> None:
        model = self._models[entry.model]
        count_parts(model, self._caches.get(entry.cache), entry.name, entry.kv_bits)
        self._engines[entry.engine] = Engine(
            model,
            max_running=entry.max_running,
            prefill=PrefillLimits(entry.max_tokens, entry.max_rows),
            name=entry.name,
            prompt_cache=self._caches.get(entry.cache),
            compiled_sampling=entry.compiled_sampling,
            kv_bits=entry.kv_bits,
            speculation=FollowingSpeculation(self._reader) if entry.speculates else None,
            make_budget=partial(FollowingBudget, reader=self._reader),
        )
        self._cache_of[entry.engine] = entry.cache

    def _insert(self, entry: Insert) -> None:
        row = make_followed_row(entry, self._reader)
        self._engines[entry.engine].insert(
            entry.id, entry.prompt, entry.max_tokens, row, entry.breakpoints, alone=entry.alone
        )

    def _step(self, number: int, share: DeviceShare) -> None:
        engine = self._engines[number]
        tokens = engine.step(share=share)
        cache = self._caches.get(self._cache_of[number])
        self._reader.digest.add(tokens, engine.failed, 0 if cache is None else cache.nbytes)


def folder_of(files: ModelFiles) -> Path:
    """The folder of a model on this host.

    Raises:
        OSError: it is not here.
    """
    return find_model_folder(files.source, download=False, revision=files.revision)


def compare_files(files: ModelFiles, contents: Mapping[str, str]) -> str | None:
    """How this host's files of a model differ from rank 0's; None if they do not."""
    try:
        return describe_difference(read_contents(folder_of(files)), contents)
    except (OSError, RuntimeError, ValueError) as error:
        return str(error)


def make_followed_row(entry: Insert, reader: PlanReader) -> Row:
    """The row that draws what rank 0's row draws."""
    start = len(entry.prompt) - entry.position
    row = make_row(
        entry.sampling,
        entry.stop_token_ids,
        prompt=entry.prompt[:start],
        resume=entry.prompt[start:],
        logprobs=entry.logprobs,
        scorer=None if entry.scored is None else PromptScorer(entry.prompt, entry.scored),
        priority=entry.priority,
    )
    if entry.constrained:
        row.constraint = FollowedConstraint(entry.id, reader)
    return row
