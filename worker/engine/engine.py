"""Continuous batching of one model: rows come, take their steps, and go.

`batches.py` extends mlx-lm's scheduler; here it is given rows by the request's id, the
prompt cache before them and the prompt cache after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mlx.nn as nn
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, make_prompt_cache

from protocol.messages import FinishReason
from worker.cache.kv_cost import probe
from worker.cache.prefix_cache import Prefix, PrefixCache
from worker.engine.decode_groups import PaddingCost
from worker.engine.mlx_batch import Drawn, PromptProgress, RowBatchGenerator, make_stop_sequences
from worker.engine.sampler import Row, Sibling
from worker.engine.token_logprobs import Score

PREFILL_ROWS = 8
NO_PREFIX = Prefix(0, [])


class Token(msgspec.Struct, frozen=True):
    """One row's next token; `reason` is set on its last, `fault` where its row failed.

    `score` is set where the row asked for log-probabilities.
    """

    id: int
    token: int
    reason: FinishReason | None
    fault: str | None = None
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class PrefillingRow:
    """A row whose prompt is not through its prefill."""

    row: Row
    prompt: list[int]
    cached_tokens: int


class Engine:
    """The rows of one model that are in prefill or decoding, by the request's id."""

    def __init__(
        self,
        model: nn.Module,
        *,
        max_running: int,
        prefill_step_tokens: int,
        name: str = "",
        prompt_cache: PrefixCache | None = None,
    ) -> None:
        self._name = name
        self._prompt_cache = prompt_cache or PrefixCache(0)
        self.kv_cost = probe(model, prefill_step_tokens)
        self._generator = RowBatchGenerator(
            model,
            PaddingCost(self.kv_cost, weight_bytes_of(model)),
            completion_batch_size=max_running,
            prefill_batch_size=min(PREFILL_ROWS, max_running),
            prefill_step_size=prefill_step_tokens,
        )
        self._waiting: dict[int, PrefillingRow] = {}
        self._rows: dict[int, Row] = {}
        self._uid_of: dict[int, int] = {}
        self._id_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._uid_of)

    @property
    def is_trimmable(self) -> bool:
        """Whether the model's caches can be cut at any token, or only be kept as they stand."""
        return all(type(layer) is KVCache for layer in make_prompt_cache(self._generator.model))

    def insert(
        self,
        id: int,
        prompt: list[int],
        max_tokens: int,
        row: Row,
        breakpoints: Sequence[int] = (),
    ) -> int:
        """Queue a row for prefill; how many of its prompt's tokens need none.

        `prompt` is not empty and `max_tokens` is at least 1. `breakpoints` are places in
        the prompt at which other prompts are likely to part from it.
        """
        shared = self._shared_prefill(prompt, row)
        if shared is not None:
            uid = self._generator.new_uid()
            self._waiting[shared].row.siblings.append(Sibling(uid, row, max_tokens))
            self._note(id, uid, row)
            return self._waiting[shared].cached_tokens
        prefix = self._prompt_cache.find(self._name, prompt) if row.scorer is None else NO_PREFIX
        [uid] = self._generator.insert_segments(
            [segments(prompt, prefix.length, breakpoints)],
            max_tokens=[max_tokens],
            caches=[prefix.layers] if prefix.length else None,
            all_tokens=[prompt[: prefix.length]],
            samplers=[row],
            stop_sequences=[make_stop_sequences(row.stop_token_ids)],
        )
        self._note(id, uid, row)
        self._waiting[id] = PrefillingRow(row, prompt, prefix.length)
        return prefix.length

    def _shared_prefill(self, prompt: list[int], row: Row) -> int | None:
        """Whose prefill this row can take part in: one with the same prompt, not at its end."""
        if row.scorer is not None:
            return None
        same = (id for id, other in self._waiting.items() if other.prompt == prompt)
        return next((id for id in same if self._waiting[id].row.scorer is None), None)

    def _note(self, id: int, uid: int, row: Row) -> None:
        self._rows[id] = row
        self._uid_of[id] = uid
        self._id_of[uid] = id

    def remove(self, ids: Iterable[int]) -> None:
        """Drop rows in any stage and free their cache; unknown ids are ignored."""
        gone = [id for id in ids if id in self._uid_of]
        left = [waiting for id in gone if (waiting := self._waiting.pop(id, None)) is not None]
        uids = {self._forget(id) for id in gone}
        for waiting in (*self._waiting.values(), *left):
            waiting.row.siblings[:] = [
                sibling for sibling in waiting.row.siblings if sibling.uid not in uids
            ]
        if uids:
            caches = self._generator.remove(uids, return_prompt_caches=True)
            self._remember(caches.values())
        for waiting in left:
            self._reinsert_siblings(waiting)

    def _reinsert_siblings(self, left: PrefillingRow) -> None:
        """Give those whose shared is gone a prefill of their own, one for all of them."""
        for sibling in left.row.siblings:
            id = self._id_of[sibling.uid]
            self._forget(id)
            self.insert(id, left.prompt, sibling.max_tokens, sibling.row)

    def step(self) -> list[Token]:
        """One decode of every running row and one slice of prefill.

        Raises:
            RuntimeError: the device failed; nothing in this process can be trusted now.
        """
        prompts, responses = self._generator.next()
        # What came before this step is computed by now, so nothing is waited for.
        self._prompt_cache.write()
        for prompt in prompts:
            if prompt.end_of_prompt:
                del self._waiting[self._id_of[prompt.uid]]
        self._remember_prompts(prompts)
        self._remember(
            (response.prompt_cache, response.all_tokens)
            for response in responses
            if response.prompt_cache is not None
        )
        tokens = [self._to_token(self._id_of[response.uid], response) for response in responses]
        for token in tokens:
            if token.reason is not None:
                self._forget(token.id)
        if not self._uid_of:
            self._prompt_cache.write()
        return tokens

    def _to_token(self, id: int, response: Drawn) -> Token:
        score = None if response.logprobs is None else response.logprobs.read()
        fault = self._rows[id].fault
        return Token(id, response.token, response.finish_reason, fault, score)

    def _remember_prompts(self, prompts: list[PromptProgress]) -> None:
        """Hold each prompt as it stands before its last token, and at its borders."""
        ended = [p.uid for p in prompts if p.end_of_segment and not p.end_of_prompt]
        if ended:
            self._remember(self._generator.extract_cache(ended).values())

    def _remember(self, computed: Iterable[tuple[list[Any], list[int]]]) -> None:
        for layers, tokens in computed:
            if tokens:
                self._prompt_cache.insert(self._name, tokens, layers)

    def _forget(self, id: int) -> int:
        del self._rows[id]
        uid = self._uid_of.pop(id)
        del self._id_of[uid]
        return uid


def weight_bytes_of(model: nn.Module) -> int:
    """The bytes of all parameters."""
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def segments(prompt: list[int], start: int, breakpoints: Sequence[int]) -> list[list[int]]:
    """The prompt from `start` on, cut at the borders and before its last token."""
    places = sorted({start, len(prompt), len(prompt) - 1, *breakpoints})
    places = [place for place in places if start <= place <= len(prompt)]
    return [prompt[begin:end] for begin, end in pairwise(places)]
