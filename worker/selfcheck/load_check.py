"""What is measured of a model at its load: what its rows may share, then what its passes cost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import mlx.nn as nn

from protocol.batching import BatchRules, SpeculationMode
from protocol.quantisation import KVBits
from worker.cache.prefix_cache import PrefixCache
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.selfcheck.check_store import CheckStore
from worker.selfcheck.draft_check import apply_speculation
from worker.selfcheck.model_check import ModelCheck
from worker.selfcheck.pass_timing import PassTiming

logger = logging.getLogger(__name__)


class LoadCheck:
    """The check of one model, one device step at a time; `rules` is its result so far.

    `has_news` says whether `take_rules` has rules to give. Rules that `store` has by this `key` are
    not measured again. `curve` is filled with what passes cost. `name` is the model's in the log.
    """

    def __init__(
        self,
        model: nn.Module,
        store: CheckStore,
        content_key: str,
        *,
        name: str = "",
        context_tokens: int | None = None,
        curve: CostCurve,
        speculation: SpeculationMode,
        vocabulary_size: int,
        limits: PrefillLimits,
        load_s: float = 0.0,
        make_engine: Callable[..., Engine] = Engine,
        make_cache: Callable[[int, None], PrefixCache] = PrefixCache,
        kv_bits: KVBits = 0,
    ) -> None:
        self._store = store
        # The result of a check without drafts, or within a shorter context, is another.
        self._key = f"{content_key}{'' if speculation == 'off' else ' drafts'} {context_tokens}"
        self._mode = speculation
        self._found = store.read(self._key)
        self.has_news = self._found is not None
        self._check: ModelCheck | None = None
        self.has_ended = False
        if self._found is None:
            self._check = ModelCheck(
                model,
                vocabulary_size=vocabulary_size,
                limits=limits,
                context_tokens=context_tokens,
                load_s=load_s,
                make_engine=make_engine,
                make_cache=make_cache,
                kv_bits=kv_bits,
                drafts=speculation != "off",
            )
        self._timing: PassTiming | None = None
        self._make_timing = partial(
            PassTiming,
            model,
            curve,
            name=name,
            vocabulary_size=vocabulary_size,
            limits=limits,
            load_s=load_s,
            make_engine=make_engine,
            kv_bits=kv_bits,
        )

    @property
    def rules(self) -> BatchRules:
        """What the rows may share, by what is checked so far and by the setting."""
        found = self._check.rules if self._check is not None else self._found
        return apply_speculation(found or BatchRules(), self._mode)

    @property
    def is_overdue(self) -> bool:
        """Whether it has taken its time; it may go on while the model is idle."""
        part = self._check or self._timing
        return part is not None and part.is_overdue

    def take_rules(self) -> BatchRules | None:
        """The rules, once after the check of what rows may share has ended."""
        has_news, self.has_news = self.has_news, False
        return self.rules if has_news else None

    def advance(self) -> bool:
        """Compute one step; True when everything has ended.

        Raises:
            RuntimeError: the device failed.
        """
        self.has_ended = self._compute()
        return self.has_ended

    def _compute(self) -> bool:
        if self._check is not None:
            if self._check.advance():
                self._found, self._check, self.has_news = self._check.rules, None, True
                self._store.write(self._key, self._found)
            return False
        if self._timing is None:
            self._timing = self._make_timing(rules=self.rules)
        return self._timing.advance()


def log_rules(id: str, rules: BatchRules) -> None:
    """Log what a model's check has found, and what it has not come to."""
    for finding in rules.findings:
        logger.warning("%s: %s", id, finding)
    if rules.undrafted:
        logger.info("%s: no drafts are verified: %s", id, rules.undrafted)
    if rules.unchecked:
        unchecked = ", ".join(rules.unchecked)
        logger.warning("%s: not checked yet, so not used until it is: %s", id, unchecked)
