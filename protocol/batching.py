"""What a model's rows may share: the result of the check that is made when it is loaded."""

from __future__ import annotations

from typing import Literal

from protocol.structs import Data

Batching = Literal["full", "decode", "none"]
"""Rows share prefill and decode, decode alone, or nothing: each is a batch of its own."""

SpeculationMode = Literal["auto", "off", "on"]
"""Whether drafts are verified: auto where the model's check finds that they change no answer."""


class BatchRules(Data, frozen=True):
    """How a model's rows are computed, so that each gets the tokens that it gets alone.

    With `reuses_prefixes` what is computed goes into the prompt cache. Without `slices_prompts`
    a prompt is computed in one slice. `findings` say why something is not allowed, `unchecked`
    what was not checked; both in words. With `verifies_drafts` several tokens of a row are computed
    in one pass; `undrafted` may say why not.
    """

    batching: Batching = "full"
    reuses_prefixes: bool = True
    slices_prompts: bool = True
    findings: list[str] = []
    unchecked: list[str] = []
    verifies_drafts: bool = False
    undrafted: str = ""
