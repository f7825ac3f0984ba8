"""What a model's rows may share: the result of the check that is made when it is loaded."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.structs import Data

SLICED_PROMPTS = "a prompt in slices"
"""What `unchecked` calls prompts that are computed in slices."""

CACHED_PREFIXES = "cached prefixes"
"""What `unchecked` calls prompts that continue what is in the prompt cache."""

Batching = Literal["full", "decode", "none"]
"""Rows share prefill and decode, decode alone, or nothing: each is a batch of its own."""

SpeculationMode = Literal["auto", "off", "on"]
"""Whether drafts are verified: auto where the model's check finds that they change no answer."""


class BatchRules(Data, frozen=True):
    """How a model's rows are computed, so that each gets the tokens that it gets alone.

    With `reuses_prefixes` prompts continue what is in the prompt cache. Without `slices_prompts`
    a prompt is computed in one slice. `findings` say why something is not allowed, and what is
    allowed without a check; `unchecked` what is not allowed before it is checked; both in words.
    With `verifies_drafts` several tokens of a row are computed in one pass; `undrafted` may say why
    not.
    """

    batching: Batching = "full"
    reuses_prefixes: bool = True
    slices_prompts: bool = True
    findings: list[str] = []
    unchecked: list[str] = []
    verifies_drafts: bool = False
    undrafted: str = ""

    @property
    def keeps_prefixes(self) -> bool:
        """Whether what is computed goes into the prompt cache: also until it is checked."""
        return self.reuses_prefixes or CACHED_PREFIXES in self.unchecked

    def count_replayed(self, answer_tokens: int) -> int:
        """How many tokens of an answer that is resumed are computed one by one, as at first.

        All, if slices are found to differ: so would one with several of these tokens.
        """
        is_wrong = not self.slices_prompts and SLICED_PROMPTS not in self.unchecked
        return answer_tokens if is_wrong else 0

    def without_prefixes(self, finding: str) -> BatchRules:
        """The same, but that nothing goes into the prompt cache, and why."""
        return msgspec.structs.replace(
            self,
            reuses_prefixes=False,
            findings=[*self.findings, finding],
            unchecked=[name for name in self.unchecked if name != CACHED_PREFIXES],
        )
