"""The token counts and timings of a response."""

from __future__ import annotations

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt came from the prompt cache."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """`reasoning_tokens` of the answer are in the model's reasoning block."""

    reasoning_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds in the waiting queue, to the first token, and after it; maxima over answers."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """The token counts of one request; `completion_tokens` includes the stop token.

    A prompt with several answers counts once. `mlxd` is not in OpenAI's API.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    mlxd: Timings = Timings()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()
