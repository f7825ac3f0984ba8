"""The token counts of a response, and where its time went."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from protocol.events import Parting


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt came from the prompt cache."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """`reasoning_tokens` of the answer are in the model's reasoning block.

    `accepted_prediction_tokens` of the answer were drafted, from the request's prediction or from
    what the text repeats; `rejected_prediction_tokens` were drafted and are not in the answer.
    """

    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Parted(msgspec.Struct, frozen=True):
    """The first token of the prompt that the closest known prompt does not have in its place.

    `token` is its place in the prompt, from 0. `differs` says that the known prompt has another
    token there, else it ends before. `message` is the index in the request's list of the message
    that the token is in, and `role` that message's role; null where the token is in none (in the
    tools, or in a prompt of text), or it is unknown.
    """

    token: int
    differs: bool
    message: int | None = None
    role: str | None = None


class PromptProgress(msgspec.Struct, frozen=True):
    """How far the prefill of a prompt is, as llama.cpp says it.

    Of its `total` tokens `cache` were in the prompt cache, and `processed` are ready, with these.
    The prefill has taken `time_ms` milliseconds. The first report is that of its start, the last
    one that of its end.
    """

    total: int
    cache: int
    processed: int
    time_ms: int


class MlxdUsage(msgspec.Struct, frozen=True):
    """Where the time of an answer and the tokens of its prompt went. Not in OpenAI's API.

    The times are milliseconds, and add up to the time in the worker: `preparation_ms` until
    the prompt's tokens and the grammar are ready, `load_ms` while the model is loaded, `queue_ms`
    in the waiting queue, also of a preempted answer, `prefill_ms` to the first token and
    `decode_ms` after it. `restart_ms` is without a worker. Of several answers each is the longest.

    Of the prompt's tokens `memory_tokens` and `disk_tokens` were in the prompt cache, in memory
    and in its files: together they are `cached_tokens`. `shared_tokens` were computed for another
    answer with the same prompt. `computed_tokens` were computed, for all answers, and again after
    a preemption or a crash. `common_tokens` is how many of its first tokens the closest known
    prompt has, cached or not, and `parted` where it parts from it, of a request's first prompt; it
    is null where the prompt is known as a whole. `accepted_prediction_tokens` of the answers were
    drafted, and `rejected_prediction_tokens` were drafted and are in no answer.
    """

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    preparation_ms: float = 0.0
    load_ms: float = 0.0
    restart_ms: float = 0.0
    memory_tokens: int = 0
    disk_tokens: int = 0
    shared_tokens: int = 0
    computed_tokens: int = 0
    common_tokens: int = 0
    parted: Parted | None = None
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class TextsUsage(msgspec.Struct, frozen=True):
    """Where the time of vectors or scores went, as in `MlxdUsage`. Not in OpenAI's API.

    `prefill_ms` is the computation of the texts. The times add up to the time in the worker.
    """

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    preparation_ms: float = 0.0
    load_ms: float = 0.0
    restart_ms: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """The token counts of one request; `completion_tokens` includes the stop token.

    A prompt with several answers counts once. `mlxd` is not in OpenAI's API; before the end of a
    stream it is left out.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    mlxd: MlxdUsage | UnsetType = UNSET
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


def to_parted(parting: Parting | None) -> Parted | None:
    """The parting in the API's shape."""
    if parting is None:
        return None
    return Parted(parting.token, parting.differs, message=parting.message, role=parting.role)
