"""How many tokens an answer took, and how long."""

from __future__ import annotations

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt needed no computing."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """`reasoning_tokens` of the answer were spent in the model's think block."""

    reasoning_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds in line, until the first token, and from there; of several answers the most."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request; `completion_tokens` counts the ending token too.

    A prompt with several answers counts once. `mlxd` is not OpenAI's.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    mlxd: Timings = Timings()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()
