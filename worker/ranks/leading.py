"""Rank 0's engine, prompt cache and slices: those of one process, whose calls are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import mlx.nn as nn

from protocol.batching import BatchRules
from protocol.quantisation import KVBits
from worker.cache.prefix_cache import PrefixCache
from worker.engine.attention_cost import AttentionCost
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.batches.speculation.speculation import Drafts, PassTimer, Speculation
from worker.engine.bitmask import BitMask
from worker.engine.engine import Engine, Token
from worker.engine.prefill_budget import (
    WHOLE_DEVICE,
    DeviceShare,
    PrefillBudget,
    PrefillLimits,
    Prompt,
    Slice,
)
from worker.engine.sampler import Constraint, Row
from worker.ranks.parts.cache_costs import count_parts
from worker.ranks.plan import (
    ChosenDrafts,
    ChosenSlice,
    DropPrefixes,
    Insert,
    MakeCache,
    MakeEngine,
    Mask,
    Remove,
    SetRules,
    ShrinkCache,
)
from worker.ranks.recorder import Recorder

NO_CACHE = -1


class LeadingCache(PrefixCache):
    """A prompt cache that each rank has. What is evicted follows from the calls alone."""

    def __init__(self, limit_bytes: int, recorder: Recorder) -> None:
        super().__init__(limit_bytes)
        self._recorder = recorder
        self.number = recorder.register("cache", self)
        recorder.add(MakeCache(self.number, limit_bytes))

    def drop(self, model: str) -> None:
        self._recorder.add(DropPrefixes(self.number, model))
        super().drop(model)

    def shrink(self, limit_bytes: int) -> None:
        if self.nbytes > limit_bytes:
            self._recorder.add(ShrinkCache(self.number, limit_bytes))
        super().shrink(limit_bytes)


class LeadingBudget(PrefillBudget):
    """Chooses the slices by this rank's time and memory, and records them."""

    def __init__(
        self, limits: PrefillLimits, attention: AttentionCost | None = None, *, recorder: Recorder
    ) -> None:
        super().__init__(limits, attention)
        self._recorder = recorder

    def plan(self, decoding_rows: int, prompts: Sequence[Prompt], *, whole: bool = False) -> Slice:
        chosen = super().plan(decoding_rows, prompts, whole=whole)
        self._recorder.add(ChosenSlice(chosen.rows, chosen.tokens))
        return chosen


class LeadingSpeculation(Speculation):
    """Records what `inner` drafts by this rank's texts and time."""

    def __init__(self, inner: Speculation, recorder: Recorder) -> None:
        super().__init__()
        self._inner = inner
        self._recorder = recorder

    def plan(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        self._inner.prompts_wait = self.prompts_wait
        chosen = self._inner.plan(rows, tokens_left, read)
        drafts = None if chosen is None else [list(draft.tokens) for draft in chosen.drafts]
        self._recorder.add(ChosenDrafts(drafts))
        # At once: the other ranks wait for it, and rank 0 soon waits for them.
        self._recorder.send()
        return chosen

    @contextmanager
    def measure(self, rows: int) -> Iterator[PassTimer]:
        with self._inner.measure(rows) as timer:
            yield timer


class RecordedConstraint:
    """A constraint whose masks the other ranks get: they have no text and no grammars."""

    def __init__(self, inner: Constraint, id: int, recorder: Recorder) -> None:
        self._inner = inner
        self._id = id
        self._recorder = recorder
        self._failure: Exception | None = None

    @property
    def complete(self) -> bool:
        return self._failure is None and self._inner.complete

    def accept(self, token: int) -> None:
        """As of the constraint; an error is raised by the next `mask`, on all ranks."""
        if self._failure is not None:
            return
        try:
            self._inner.accept(token)
        except Exception as error:
            self._failure = error

    def mask(self) -> BitMask | None:
        try:
            if self._failure is not None:
                raise self._failure
            mask = self._inner.mask()
        except Exception as error:
            self._send(Mask(self._id, fault=str(error) or type(error).__name__))
            raise
        self._send(Mask(self._id, None if mask is None else mask.tobytes()))
        return mask

    def _send(self, mask: Mask) -> None:
        """Send it at once: the other ranks wait for it, and rank 0 soon waits for them."""
        self._recorder.add(mask)
        self._recorder.send()


class LeadingEngine(Engine):
    """An engine that each rank has."""

    computes_alone = False

    def __init__(
        self,
        model: nn.Module,
        *,
        recorder: Recorder,
        max_running: int,
        prefill: PrefillLimits,
        name: str = "",
        prompt_cache: PrefixCache | None = None,
        rules: BatchRules | None = None,
        compiled_sampling: bool = False,
        speculation: Speculation | None = None,
        curve: CostCurve | None = None,
        kv_bits: KVBits = 0,
    ) -> None:
        """`curve` is not used: other ranks have not measured the same, and group rows alike."""
        self._recorder = recorder
        self._is_ready = False
        count_parts(model, prompt_cache, name, kv_bits)
        super().__init__(
            model,
            max_running=max_running,
            prefill=prefill,
            name=name,
            prompt_cache=prompt_cache,
            rules=rules,
            compiled_sampling=compiled_sampling,
            speculation=speculation and LeadingSpeculation(speculation, recorder),
            kv_bits=kv_bits,
            make_budget=partial(LeadingBudget, recorder=recorder),
        )
        self._is_ready = True
        self._number = recorder.register("engine", self)
        recorder.add(
            MakeEngine(
                engine=self._number,
                model=recorder.number_of(model),
                cache=prompt_cache.number if isinstance(prompt_cache, LeadingCache) else NO_CACHE,
                name=name,
                max_running=max_running,
                max_tokens=prefill.max_tokens,
                max_rows=prefill.max_rows,
                compiled_sampling=compiled_sampling,
                speculates=speculation is not None,
                kv_bits=kv_bits,
            )
        )
        recorder.add(SetRules(self._number, self.rules))

    @property
    def rules(self) -> BatchRules:
        return super().rules

    @rules.setter
    def rules(self, rules: BatchRules) -> None:
        Engine.rules.__set__(self, rules)  # type: ignore[attr-defined]
        if self._is_ready:
            self._recorder.add(SetRules(self._number, rules))

    def insert(
        self,
        id: int,
        prompt: list[int],
        max_tokens: int,
        row: Row,
        breakpoints: Sequence[int] = (),
        *,
        alone: bool = False,
    ) -> int:
        if row.constraint is not None:
            row.constraint = RecordedConstraint(row.constraint, id, self._recorder)
        self._recorder.add(
            Insert(
                engine=self._number,
                id=id,
                prompt=prompt,
                max_tokens=max_tokens,
                sampling=row.sampling,
                stop_token_ids=sorted(row.stop_token_ids),
                position=row.position,
                priority=row.priority,
                breakpoints=list(breakpoints),
                alone=alone,
                constrained=row.constraint is not None,
                logprobs=row.logprobs,
                scored=None if row.scorer is None else row.scorer.top_count,
            )
        )
        return super().insert(id, prompt, max_tokens, row, breakpoints, alone=alone)

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """Batches have no more free slots: what is spare is not known to all ranks."""

    def remove(self, ids: Iterable[int]) -> None:
        ids = list(ids)
        self._recorder.add(Remove(self._number, ids))
        super().remove(ids)

    def step(
        self,
        begin: Callable[[float], None] = lambda reckoned_s: None,
        deliver: Callable[[list[Token]], None] | None = None,
        share: DeviceShare = WHOLE_DEVICE,
    ) -> list[Token]:
        """As of one process, but all tokens are returned: rows leave all ranks between steps."""

        def begin_together(reckoned_s: float) -> None:
            begin(reckoned_s)
            self._recorder.send()

        self._recorder.begin_step(self._number, prefills=share.prefills)
        tokens = super().step(begin_together, share=share)
        self._recorder.digest.add(tokens, self.failed, self._prompt_cache.nbytes)
        return tokens
