"""Every message that crosses the pipe, its two unions, and their codecs.

A conversation: the service sends `Configure`; the worker answers with any
number of `Loading`, then `ModelsChanged` and `Ready` (or `Fatal`). From then on the service
sends `Submit`, `Cancel`, `SetMaxRunning`, `Load`, `Unload` and `Pin`, and the worker one `Step`
a device step, and `ModelsChanged` whenever what is resident has changed. Each submitted
request gets exactly one `Started` or `Rejected`; a started one then gets its
`TextDelta`s and calls, and exactly one `Finished` or `Failed`. A cancelled one is owed nothing.

Ids are counters made by the service. Sizes are bytes, times are milliseconds.
"""

from __future__ import annotations

from typing import Any, Literal

from protocol.events import (
    Alternative as Alternative,
)
from protocol.events import (
    ArgumentsDelta as ArgumentsDelta,
)
from protocol.events import (
    Event as Event,
)
from protocol.events import (
    Failed as Failed,
)
from protocol.events import (
    Finished as Finished,
)
from protocol.events import (
    FinishReason as FinishReason,
)
from protocol.events import (
    PromptLogprobs as PromptLogprobs,
)
from protocol.events import (
    Rejected as Rejected,
)
from protocol.events import (
    Started as Started,
)
from protocol.events import (
    TextDelta as TextDelta,
)
from protocol.events import (
    TextKind as TextKind,
)
from protocol.events import (
    TokenLogprob as TokenLogprob,
)
from protocol.events import (
    ToolCallStarted as ToolCallStarted,
)
from protocol.grammars import Grammar
from protocol.structs import Data, Message

# ---------------------------------------------------------------- requests


class ChatPrompt(Message, frozen=True):
    """A conversation in OpenAI's shape, already validated, each content one string.

    The worker applies the template, with `options` for its variables, and gives it
    the `tools`, each in OpenAI's shape with its parameters. With `continue_final` the
    answer goes on with the last message.
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any] = {}
    continue_final: bool = False
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] = []


class TextPrompt(Message, frozen=True):
    """Text to be continued as it stands, up to a `suffix` where there is one."""

    text: str
    suffix: str = ""


class TokenPrompt(Message, frozen=True):
    """Token ids to be continued as they stand."""

    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(Data, frozen=True):
    """How the next token is drawn.

    `temperature` 0 is greedy. `top_p` 1, `top_k` 0 and `min_p` 0 are off.
    `seed` is always set, so that every answer can be drawn again. Penalties of 0,
    a `repetition_penalty` of 1 and an empty `logit_bias` (token id -> bias) are off.
    With `ignore_eos` the model's own ends do not end the answer; `stop_tokens` do too.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_tokens: list[int] = []


class ToolUse(Data, frozen=True):
    """Which of the prompt's tools may be called, by name; with `required` at least one is.

    Without `parallel` the answer ends with its first call.
    """

    names: list[str]
    required: bool = False
    parallel: bool = True


class ModelSource(Data, frozen=True):
    """A model of the configured list: the id it is served by, and where it comes from.

    `source` is a folder, a hub id, or None for the model built into the package.
    `adapter_path` is a folder with a LoRA adapter, `chat_template` Jinja instead of
    the model's own. `context_limit_tokens` 0 is the one of `Configure`; `idle_s` is
    how long it stays loaded unused, 0 for ever.
    """

    id: str
    source: str | None
    adapter_path: str | None = None
    chat_template: str | None = None
    context_limit_tokens: int = 0
    pinned: bool = False
    idle_s: float = 0.0


# ---------------------------------------------------------------- to the worker


class Configure(Message, frozen=True):
    """The first message: what may be loaded and within which bounds.

    `preload` are the models to load before `Ready`, None all. `memory_limit_bytes` is the
    budget of all that is held for models, 0 the device's own; a request waits for
    `memory_wait_s` at most to get its part of it. Other bytes 0: MLX's own bound.
    """

    models: list[ModelSource]
    max_running: int
    prefill_step_tokens: int
    context_limit_tokens: int
    memory_limit_bytes: int
    cache_limit_bytes: int
    prompt_cache_bytes: int = 0
    prompt_cache_dir: str = ""
    prompt_cache_dir_bytes: int = 0
    preload: list[str] | None = None
    memory_wait_s: float = 30.0
    prefill_reserve_bytes: int = 0
    wired_limit_bytes: int = 0


class Submit(Message, frozen=True):
    """One sequence to generate.

    `logprobs` and `prompt_logprobs` ask for the log-probabilities of the answer's and
    the prompt's tokens, each with so many alternatives.

    `max_tokens` None means up to the context length. `resume` holds the token
    ids of this answer that an earlier worker delivered: they are replayed with
    no output, and generation goes on after them. Without `calls` no text is read
    as a tool call.
    """

    id: int
    model: str
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None = None
    stop: list[str] = []
    echo: bool = False
    resume: list[int] = []
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    calls: ToolUse | None = None
    grammar: Grammar | None = None


class Cancel(Message, frozen=True):
    """Forget these requests; unknown ids are ignored."""

    ids: list[int]


class SetMaxRunning(Message, frozen=True):
    """From now on so many sequences a model may be on the device, at most `Configure`'s number."""

    max_running: int


class Shutdown(Message, frozen=True):
    """Leave the loop and end the process."""


class Load(Message, frozen=True):
    """Load this model if it is not; answered by `CommandResult` with the same ticket."""

    ticket: int
    model: str


class Unload(Message, frozen=True):
    """Give this model's memory back if it is idle; answered by `CommandResult`."""

    ticket: int
    model: str


class Pin(Message, frozen=True):
    """Never evict this model, or let it be evicted again; answered by `CommandResult`."""

    ticket: int
    model: str
    pinned: bool


ToWorker = Configure | Submit | Cancel | SetMaxRunning | Load | Unload | Pin | Shutdown

# ---------------------------------------------------------------- to the service


class Memory(Data, frozen=True):
    """What is in use: by MLX's own account, and by the system's of the whole process.

    `limit` is the budget, `reserved` what of it is spent or promised; 0: not known.
    """

    active: int = 0
    peak: int = 0
    cache: int = 0
    limit: int = 0
    footprint: int = 0
    reserved: int = 0


class Device(Data, frozen=True):
    """What MLX computes on."""

    name: str
    backend: str
    memory_bytes: int


class ModelInfo(Data, frozen=True):
    """What loading a model decided."""

    id: str
    family: str
    context_length: int
    vocabulary_size: int
    weight_bytes: int
    load_ms: float
    capabilities: list[str] = []
    has_chat_template: bool = True
    template_variables: list[str] = []
    reasoning_effort: bool = False
    fill_in_middle: bool = False


class Loading(Message, frozen=True):
    """Progress of loading one model's weights."""

    model: str
    done_bytes: int
    total_bytes: int


ModelStatus = Literal["unloaded", "loading", "loaded", "failed"]


class ModelState(Data, frozen=True):
    """One configured model now.

    `bytes` are what its weights take, `done_bytes` how far a load has come. `reason` says
    why the last load failed, or what this one waits for.
    """

    id: str
    status: ModelStatus
    pinned: bool = False
    bytes: int = 0
    done_bytes: int = 0
    reason: str | None = None
    info: ModelInfo | None = None


class ModelsChanged(Message, frozen=True):
    """All configured models, in their order."""

    models: list[ModelState]


class CommandResult(Message, frozen=True):
    """What became of a `Load`, `Unload` or `Pin`; `code` and `message` where it could not be."""

    ticket: int
    code: str | None = None
    message: str | None = None


class Ready(Message, frozen=True):
    """The models to begin with are loaded, as the `ModelsChanged` before it says."""

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


ToService = Loading | ModelsChanged | Ready | Step | CommandResult | Fatal
