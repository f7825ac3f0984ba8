"""Continuous batching of one model's rows, by request id.

The scheduler of the rows is in row_generator.py. This module maps request ids to its rows,
looks prompts up in the prompt cache, and stores what was computed there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import mlx.nn as nn
import msgspec
from mlx_lm.models.cache import KVCache, make_prompt_cache

from protocol.batching import BatchRules
from protocol.events import FinishReason
from protocol.quantisation import KVBits
from worker.cache.known_prompts import Comparison, KnownPrompts
from worker.cache.prefix_cache import Prefix, PrefixCache, PrefixReuse
from worker.cache.restore_points import plan_restore_points
from worker.engine.attention_cost import AttentionCost, probe_attention
from worker.engine.batches.compiled_sampling import choose_sampling
from worker.engine.batches.decode_groups import PaddingCost
from worker.engine.batches.model_errors import MODEL_ERRORS, FailedRow, describe_error
from worker.engine.batches.prefill_turns import PrefillingRow, reuse_of_sibling, split_prompt
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.batches.speculation.drafted_pass import NO_DRAFTS, DraftedCounts, VerifiedToken
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.prefill_budget import WHOLE_DEVICE, DeviceShare, PrefillBudget, PrefillLimits
from worker.engine.rows.generation_batch import GeneratedToken, make_stop_sequences
from worker.engine.rows.prompt_batch import PromptProgress
from worker.engine.rows.row_generator import RowBatchGenerator
from worker.engine.sampler import Row, Sibling
from worker.engine.token_logprobs import Score
from worker.memory.budget import clear_buffer_cache, weight_bytes_of
from worker.memory.kv_cost import probe
from worker.quantised_kv.model_quantisation import KVQuantisation

logger = logging.getLogger(__name__)

EMPTY_PREFIX = Prefix(0, [])
MakeBudget = Callable[[PrefillLimits, AttentionCost], PrefillBudget]


class Token(msgspec.Struct, frozen=True):
    """One row's next token; `reason` is set on its last, `fault` where its row failed.

    `score` is set where the row requests log-probabilities.
    """

    id: int
    token: int
    reason: FinishReason | None
    fault: str | None = None
    score: Score | None = None
    drafted: DraftedCounts = NO_DRAFTS


class Engine:
    """The rows of one model that are in prefill or decoding, by the request's id.

    `rules` say what its rows may share. Of a row that was inserted `alone` nothing is cached.
    `curve` has what its passes cost, once that is measured. `kv_bits` are those of quantised keys
    and values, 0 for full precision. `computes_alone` says whether its model can be called
    without it: on several ranks all must.
    """

    computes_alone = True

    def __init__(
        self,
        model: nn.Module,
        *,
        max_running: int,
        prefill: PrefillLimits,
        name: str = "",
        prompt_cache: PrefixCache | None = None,
        rules: BatchRules | None = None,
        compiled_sampling: bool = False,
        speculation: Speculation | None = None,
        curve: CostCurve | None = None,
        kv_bits: KVBits = 0,
        make_budget: MakeBudget = PrefillBudget,
    ) -> None:
        self._name = name
        self._prompt_cache = PrefixCache(0) if prompt_cache is None else prompt_cache
        self._known_prompts = KnownPrompts()
        self.quantisation = KVQuantisation.of(model, kv_bits)
        own_cost = probe(model, prefill.max_tokens, self.quantisation)
        self.kv_cost = own_cost if speculation is None else speculation.add_cost(own_cost)
        budget = make_budget(prefill, probe_attention(model, own_cost))
        self._generator = RowBatchGenerator(
            model,
            PaddingCost(own_cost, weight_bytes_of(model), curve),
            budget,
            completion_batch_size=max_running,
            prefill_step_size=prefill.max_tokens,
            sampler=choose_sampling(compiled_sampling),
            speculation=speculation,
        )
        self._prefill_budget, self.speculation = budget, speculation
        self.rules = rules or BatchRules()
        self.cache_fault: str | None = None  # Why a row's caches could not be kept.
        self._uncached: set[int] = set()
        self._prefilling: dict[int, PrefillingRow] = {}
        self._rows: dict[int, Row] = {}
        self._uid_of: dict[int, int] = {}
        self._id_of: dict[int, int] = {}
        # The ids of the rows whose prompts the last step computed in part: tokens done, and all.
        self.progress: list[tuple[int, int, int]] = []
        # The rows that the last step has lost to an error of the model's code.
        self.failed: list[FailedRow] = []

    def __len__(self) -> int:
        return len(self._uid_of)

    @property
    def model(self) -> nn.Module:
        """The modules that compute the model."""
        model: nn.Module = self._generator.model
        return model

    @property
    def is_trimmable(self) -> bool:
        """Whether the model's caches can be cut at any token."""
        return all(type(layer) is KVCache for layer in make_prompt_cache(self._generator.model))

    @property
    def rules(self) -> BatchRules:
        """What the rows may share; set only while there are none."""
        return self._generator.rules

    @rules.setter
    def rules(self, rules: BatchRules) -> None:
        self._generator.rules = rules

    @property
    def speculates(self) -> bool:
        """Whether drafts of its rows are verified."""
        return self.speculation is not None and self.rules.verifies_drafts

    @property
    def decode_s(self) -> float:
        """The seconds of a decode step of its rows; 0 while none decodes."""
        return self._prefill_budget.expected_decode_s if self._generator.is_decoding else 0.0

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """Let batches have more free slots where the memory budget has these bytes to spare."""
        self._generator.spare_bytes = spare_bytes
        if self.speculation is not None:
            self.speculation.grow_within(spare_bytes)

    @property
    def slack_bytes(self) -> int:
        """The bytes of free slots that are kept because the memory budget spared them."""
        of_drafts = 0 if self.speculation is None else self.speculation.slack_bytes
        return self._generator.slack_bytes + of_drafts

    def squeeze(self) -> None:
        """Give up the slack, which copies the rows."""
        self._generator.squeeze()
        if self.speculation is not None:
            self.speculation.squeeze()

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens of a prompt that may not be sliced; None without a bound."""
        return None if self.rules.slices_prompts else self._prefill_budget.longest_whole()

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
        """Queue a row for prefill; the number of its prompt's tokens that are cached.

        `prompt` is not empty and `max_tokens` is at least 1. `breakpoints` are positions in
        the prompt where other prompts are likely to differ from it. A row that is `alone`
        shares nothing with others. `row.reuse` is where the prompt's tokens come from.
        """
        row.alone = alone or self.rules.batching == "none"
        if alone:
            self._uncached.add(id)
        if (shared := self._find_shared_prefill(id, prompt, row)) is not None:
            uid = self._generator.new_uid()
            shared.row.siblings.append(Sibling(uid, row, max_tokens))
            self._register(id, uid, row)
            row.reuse = reuse_of_sibling(shared)
            return shared.cached_tokens
        prefix = self._find_prefix(id, prompt, row)
        compared = self._known_prompts.note(prompt)
        closest = max(compared.closest, prefix.closest, key=attrgetter("tokens"))
        in_memory = prefix.length - prefix.disk_tokens
        row.reuse = PrefixReuse(in_memory, prefix.disk_tokens, closest=closest)
        ends = self._plan_restore_points(id, compared, prefix.length, breakpoints)
        [uid] = self._generator.insert_segments(
            [split_prompt(prompt, prefix.length, ends, self.rules.count_replayed(row.position))],
            max_tokens=[max_tokens],
            caches=[self._make_caches(prefix)],
            all_tokens=[prompt[: prefix.length]],
            samplers=[row],
            stop_sequences=[make_stop_sequences(row.stop_token_ids)],
        )
        self._register(id, uid, row)
        self._prefilling[id] = PrefillingRow(row, prompt, prefix.length)
        return prefix.length

    def _make_caches(self, prefix: Prefix) -> list[Any]:
        """The caches of a row behind this prefix."""
        if not prefix.length:
            return self.quantisation.make_caches(self._generator.model)
        return self.quantisation.to_packed(prefix.layers)

    def _plan_restore_points(
        self, id: int, compared: Comparison, cached: int, breakpoints: Sequence[int]
    ) -> Sequence[int]:
        """Where the prefill of this prompt stops, so that others can continue from there."""
        if not self.rules.slices_prompts:
            return ()
        if self.is_trimmable or not self._may_cache(id):
            return breakpoints
        return plan_restore_points(compared, cached, breakpoints)

    def _find_prefix(self, id: int, prompt: list[int], row: Row) -> Prefix:
        if row.scorer is not None or not (self.rules.reuses_prefixes and self._may_cache(id)):
            return EMPTY_PREFIX
        return self._prompt_cache.find(self._name, prompt)

    def _may_cache(self, id: int) -> bool:
        return self.rules.keeps_prefixes and id not in self._uncached

    def _find_shared_prefill(self, id: int, prompt: list[int], row: Row) -> PrefillingRow | None:
        """A row in prefill with the same prompt; rows with a scorer share no prefill."""
        rows = self._prefilling.items() if self._may_share_prefill(id, row) else ()
        same = (e for id, e in rows if e.prompt == prompt and self._may_share_prefill(id, e.row))
        return next(same, None)

    def _may_share_prefill(self, id: int, row: Row) -> bool:
        is_replayed = self.rules.count_replayed(row.position) > 0
        return row.scorer is None and id not in self._uncached and not is_replayed

    def _register(self, id: int, uid: int, row: Row) -> None:
        self._rows[id] = row
        self._uid_of[id] = uid
        self._id_of[uid] = id

    def remove(self, ids: Iterable[int]) -> None:
        """Remove rows in any stage and free their caches; unknown ids are ignored."""
        known = [id for id in ids if id in self._uid_of]
        removed = [self._prefilling.pop(id) for id in known if id in self._prefilling]
        kept = {self._uid_of[id] for id in known if self._may_cache(id)}
        uids = {self._unregister(id) for id in known}
        for prefilling in (*self._prefilling.values(), *removed):
            siblings = prefilling.row.siblings
            siblings[:] = [sibling for sibling in siblings if sibling.uid not in uids]
        if uids:
            self._cache_rows(kept)
            self._generator.remove(uids)
        for prefilling in removed:
            self._reinsert_siblings(prefilling)

    def _reinsert_siblings(self, removed: PrefillingRow) -> None:
        """Insert the siblings of a removed row again; they share a new prefill."""
        for sibling in removed.row.siblings:
            id = self._id_of[sibling.uid]
            self._unregister(id)
            # Not one of a subclass: that is for calls from outside.
            Engine.insert(self, id, removed.prompt, sibling.max_tokens, sibling.row)

    def step(
        self,
        begin: Callable[[float], None] = lambda reckoned_s: None,
        deliver: Callable[[list[Token]], None] | None = None,
        share: DeviceShare = WHOLE_DEVICE,
    ) -> list[Token]:
        """Decode one token of every running row, and prefill one slice of the prompts.

        `begin` is called before the device call with the seconds that it is expected to take.
        Tokens that are read while a slice is computed go to `deliver`; it may remove rows.
        `share` says whether there is a slice, and what it is computed beside.

        Raises:
            RuntimeError: the device failed; the state of this process cannot be trusted.
        """
        begin(self._generator.plan_step(share))
        prompts, responses = self._generator.next()
        for prompt in prompts:
            if prompt.end_of_prompt:
                del self._prefilling[self._id_of[prompt.uid]]
        tokens = self._take_tokens(responses)
        if tokens and deliver is not None and self._generator.has_slice:
            deliver(tokens)
            tokens = []
        self._generator.wait()
        # Computed by earlier steps, so this does not wait.
        self._prompt_cache.write()
        self.progress = [entry for prompt in prompts for entry in self._progress_of(prompt)]
        self._cache_prompts(prompts)
        self.failed = list(self._drop_failed())
        if not self._uid_of:
            self._prompt_cache.write()
            clear_buffer_cache()
        return tokens

    def _take_tokens(self, responses: list[GeneratedToken]) -> list[Token]:
        """The rows' next tokens; what the rows that have ended leave is cached."""
        for response in responses:
            if response.prompt_cache is not None and self._may_cache(self._id_of[response.uid]):
                self._cache_prefix(response.prompt_cache, response.all_tokens)
        tokens = [self._to_token(self._id_of[response.uid], response) for response in responses]
        for token in tokens:
            if token.reason is not None:
                self._unregister(token.id)
        return tokens

    def _progress_of(self, prompt: PromptProgress) -> Iterator[tuple[int, int, int]]:
        """The progress of a row and its siblings; nothing once only the last token is left."""
        done, total = prompt.progress
        if prompt.end_of_prompt or done >= total - 1:
            return
        prefilling = self._prefilling[self._id_of[prompt.uid]]
        cached = prefilling.cached_tokens
        for uid in (prompt.uid, *(sibling.uid for sibling in prefilling.row.siblings)):
            yield self._id_of[uid], cached + done, cached + total

    def _to_token(self, id: int, response: GeneratedToken | VerifiedToken) -> Token:
        score = None if response.logprobs is None else response.logprobs.read()
        fault = self._rows[id].fault
        drafted = response.drafted if isinstance(response, VerifiedToken) else NO_DRAFTS
        return Token(id, response.token, response.finish_reason, fault, score, drafted)

    def take_failed(self) -> list[FailedRow]:
        """Remove and return the rows that the last step has lost; errors keep arrays alive."""
        failed, self.failed = self.failed, []
        return failed

    def _drop_failed(self) -> Iterator[FailedRow]:
        """Remove the rows whose calls failed."""
        for call in self._generator.take_failed():
            for uid in call.uids:
                if (id := self._id_of.get(uid)) is not None:
                    # Its siblings failed with it: they are not to be inserted again.
                    self._rows[id].siblings.clear()
                    self._prefilling.pop(id, None)
                    self._unregister(id)
                    yield FailedRow(id, call.error)

    def _cache_prompts(self, prompts: list[PromptProgress]) -> None:
        """Cache prompts up to the segment that has ended: a breakpoint or the last token."""
        uids = [p.uid for p in prompts if p.end_of_segment and not p.end_of_prompt]
        self._cache_rows(uid for uid in uids if self._may_cache(self._id_of[uid]))

    def _cache_rows(self, uids: Iterable[int]) -> None:
        if not (wanted := set(uids)):
            return
        try:
            caches = self._generator.extract_cache(wanted)
        except MODEL_ERRORS as error:
            self._stop_caching(error)
            return
        for layers, tokens in caches.values():
            self._cache_prefix(layers, tokens)

    def _cache_prefix(self, layers: list[Any], tokens: list[int]) -> None:
        try:
            if tokens:
                self._known_prompts.note_answer(tokens)
                self._prompt_cache.insert(self._name, tokens, layers)
        except MODEL_ERRORS as error:
            self._stop_caching(error)

    def _stop_caching(self, error: BaseException) -> None:
        """Some caches of mlx-lm cannot be copied: nothing of this model is kept then."""
        self.cache_fault = fault = describe_error(error)
        logger.warning("nothing is kept in the prompt cache: %s", fault)
        finding = f"Nothing is kept in the prompt cache: {fault}."
        self.rules = self.rules.without_prefixes(finding)

    def _unregister(self, id: int) -> int:
        row = self._rows.pop(id)
        if self.speculation is not None:
            self.speculation.release(row)
        self._uncached.discard(id)
        uid = self._uid_of.pop(id)
        del self._id_of[uid]
        return uid
