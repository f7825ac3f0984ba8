"""Every message that crosses the pipe, its two unions, and their codecs.

A conversation: the service sends `Configure`; the worker answers with any
number of `Loading`, then `Ready` (or `Fatal`). From then on the service sends
`Submit`, `Cancel` and `Limit`, and the worker one `Step` a device step. Each submitted
request gets exactly one `Started` or `Rejected`; a started one then gets its
`Delta`s and exactly one `Finished` or `Failed`. A cancelled one is owed nothing.

Ids are counters made by the service. Sizes are bytes, times are milliseconds.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Data(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A plain value inside a message."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=str.lower, gc=False):
    """A value that names its type on the wire: a message, an event or a prompt."""


# ---------------------------------------------------------------- requests


class ChatPrompt(Message, frozen=True):
    """A conversation in OpenAI's shape, already validated, each content one string.

    The worker applies the template.
    """

    messages: list[dict[str, Any]]


class TextPrompt(Message, frozen=True):
    """Text to be continued as it stands."""

    text: str


class TokenPrompt(Message, frozen=True):
    """Token ids to be continued as they stand."""

    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(Data, frozen=True):
    """How the next token is drawn.

    `temperature` 0 is greedy. `top_p` 1, `top_k` 0 and `min_p` 0 are off.
    `seed` is always set, so that every answer can be drawn again.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


class ModelSource(Data, frozen=True):
    """A model of the configured list: the id it is served by, and where it comes from.

    `source` is a folder, a hub id, or None for the model built into the package.
    """

    id: str
    source: str | None


# ---------------------------------------------------------------- to the worker


class Configure(Message, frozen=True):
    """The first message: what to load and within which bounds. 0 bytes: no bound set."""

    models: list[ModelSource]
    max_running: int
    prefill_step_tokens: int
    context_limit_tokens: int
    memory_limit_bytes: int
    cache_limit_bytes: int


class Submit(Message, frozen=True):
    """One sequence to generate.

    `max_tokens` None means up to the context length. `resume` holds the token
    ids of this answer that an earlier worker delivered: they are replayed with
    no output, and generation goes on after them.
    """

    id: int
    model: str
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None = None
    stop: list[str] = []
    echo: bool = False
    resume: list[int] = []


class Cancel(Message, frozen=True):
    """Forget these requests; unknown ids are ignored."""

    ids: list[int]


class Limit(Message, frozen=True):
    """From now on so many sequences a model may be on the device, at most `Configure`'s number."""

    max_running: int


class Shutdown(Message, frozen=True):
    """Leave the loop and end the process."""


ToWorker = Configure | Submit | Cancel | Limit | Shutdown

# ---------------------------------------------------------------- events of one step

FinishReason = Literal["stop", "length"]


class Started(Message, frozen=True):
    """The request was admitted. `echo` is the prompt's text where it was asked for."""

    id: int
    prompt_tokens: int
    echo: str = ""


class Delta(Message, frozen=True):
    """New tokens and the text they release; text may be held back and come later."""

    id: int
    text: str
    tokens: list[int]


class Finished(Message, frozen=True):
    """The answer is complete. `completion_tokens` counts resumed and ending tokens too."""

    id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float


class Rejected(Message, frozen=True):
    """The request cannot be served as asked; nothing of it was generated."""

    id: int
    code: str
    message: str
    param: str | None = None


class Failed(Message, frozen=True):
    """The request ended by an error of its own after it had started."""

    id: int
    message: str


Event = Started | Delta | Finished | Rejected | Failed

# ---------------------------------------------------------------- to the service


class Memory(Data, frozen=True):
    """MLX's own account of the device memory. `limit` 0: no limit known."""

    active: int = 0
    peak: int = 0
    cache: int = 0
    limit: int = 0


class Device(Data, frozen=True):
    """What MLX computes on."""

    name: str
    backend: str
    memory_bytes: int


class LoadedModel(Data, frozen=True):
    """What loading a model decided."""

    id: str
    family: str
    context_length: int
    vocabulary_size: int
    weight_bytes: int
    load_ms: float


class Loading(Message, frozen=True):
    """Progress of loading one model's weights."""

    model: str
    done_bytes: int
    total_bytes: int


class Ready(Message, frozen=True):
    """All configured models are loaded."""

    models: list[LoadedModel]
    device: Device
    memory: Memory


class Stats(Data, frozen=True):
    """The worker's state after a step; `device_ms` and `host_ms` are that step's."""

    running: int
    waiting: int
    memory: Memory
    device_ms: float
    host_ms: float


class Step(Message, frozen=True):
    """One device step: the events of all sequences. Also the sign of progress."""

    events: list[Event]
    stats: Stats


class Fatal(Message, frozen=True):
    """Last words of a worker that could still speak."""

    message: str


ToService = Loading | Ready | Step | Fatal
