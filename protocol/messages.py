"""The messages between service and worker, and their two unions.

The order of messages: the service sends `Configure`. The worker answers with any number of
`Loading`, then `ModelsChanged` and `Ready` (or `Fatal`). From then on the service sends
`Submit`, `Embed`, `Tokenize`, `Cancel`, `SetMaxRunning`, `Load`, `Unload` and `Pin`. The worker
sends one `Step` for each device step, and `ModelsChanged` when a model's state has changed. It
answers each `Ping` with a `Pong` at once, from the thread that reads the pipe. Each submitted
request, and each `Embed`, gets exactly one `Started` or `Rejected`. `Started` is sent before the
prefill, and `Progress` after each of its slices but the last, which has one if `Submit.progress`
is set. A started request then gets its deltas and tool calls, or its `Embedded`, and exactly one
`Finished` or `Failed`. A cancelled request may get no further event. Each `Tokenize` gets one
`Tokenized` or `Rejected`, outside of a `Step`: it does not wait for the device.

Ids are counters of the service. Sizes are in bytes, times in milliseconds unless a name ends
in `_s`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.batching import SpeculationMode
from protocol.embedding import Embed, EmbeddingSource
from protocol.events import Event, Origin, Rejected, Tokenized
from protocol.grammars import Grammar
from protocol.model_states import ModelState
from protocol.quantisation import KVBits
from protocol.ranks import RankGroup, SplitSetting
from protocol.stats import Device, Memory, Stats
from protocol.structs import Data, Message
from protocol.tokenization import Tokenize
from protocol.wiring import WiredLimit, Wiring


class ChatPrompt(Message, frozen=True):
    """A conversation in OpenAI's format, already validated; each content is one string.

    The worker renders it with the model's chat template. `options` are variables of the
    template, `tools` are in OpenAI's format. With `continue_final` the answer continues the
    last message. Without `generation_prompt` the prompt ends after the last message. With
    `ignores_effort` a model that cannot honour `reasoning_effort` ignores it. With `truncate` the
    oldest turns of a conversation that is too long are left out; the instructions at its
    beginning and its last turn stay. `origins` has one item for each message, or none where the
    messages are those of the request. `schema_paths` are the places of the tools' schemas in the
    request, for what names them.
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any] = {}
    continue_final: bool = False
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] = []
    generation_prompt: bool = True
    ignores_effort: bool = False
    truncate: bool = False
    origins: list[Origin] = []
    schema_paths: list[str] = []

    def schema_path(self, index: int) -> str:
        """Where the request has the schema of the tool at `index`."""
        if self.schema_paths:
            return self.schema_paths[index]
        return f"tools[{index}].function.parameters"


class TextPrompt(Message, frozen=True):
    """Text to continue without a chat template; with a `suffix`, the text before the suffix."""

    text: str
    suffix: str = ""


class TokenPrompt(Message, frozen=True):
    """Token ids to continue without a chat template."""

    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(Data, frozen=True):
    """How tokens are sampled.

    `temperature` 0 is greedy. `top_p` 1, `top_k` 0, `min_p` 0, penalties of 0, a
    `repetition_penalty` of 1 and an empty `logit_bias` (token id -> bias) are off. The
    `repetition_penalty` counts the last `repetition_context` tokens, 0 for all. `seed` is always
    set, so that every answer can be reproduced. `stop_tokens` are stop tokens besides
    the model's own; `ignore_eos` turns off the model's own. `unset` names the parameters that
    neither request nor configuration sets: the worker uses the `ModelDefaults` instead.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_tokens: list[int] = []
    unset: list[str] = []


class ToolUse(Data, frozen=True):
    """The names of the tools that may be called; with `required` at least one must be called.

    Without `parallel` the answer ends after its first call.
    """

    names: list[str]
    required: bool = False
    parallel: bool = True


class ModelSource(Data, frozen=True):
    """A configured model: the id it is served under, and where its files are.

    `source` is a folder, a hub id, or None for the model built into the package.
    `adapter_path` is a folder with a LoRA adapter. `chat_template` is a Jinja template that
    replaces the model's own. `context_limit_tokens` 0 means the limit of `Configure`.
    `idle_s` is how long the model stays loaded while unused, 0 without limit. With
    `generation_config` its generation_config.json gives its `ModelDefaults`. `revision` is that
    of a hub model. With `trust_remote_code` its Python code runs; it is then never downloaded.
    With `embedding` it is no model that generates. `draft_model` is the folder or hub id of a model
    that drafts for it.
    """

    id: str
    source: str | None
    adapter_path: str | None = None
    chat_template: str | None = None
    context_limit_tokens: int = 0
    pinned: bool = False
    idle_s: float = 0.0
    generation_config: bool = True
    revision: str | None = None
    trust_remote_code: bool = False
    embedding: EmbeddingSource | None = None
    speculation: SpeculationMode = "off"
    kv_bits: KVBits = 0
    draft_model: str | None = None


# ---------------------------------------------------------------- to the worker


class Configure(Message, frozen=True):
    """The first message: the models and the limits. `compiled_sampling` is for Metal alone.

    `preload` are the ids of the models to load before `Ready`, None for all.
    `memory_limit_bytes` is the memory budget for models, 0 for the device's default. A
    request waits at most `memory_wait_s` for memory. Text waits at most `stream_interval_s` for
    that of later steps. A slice of prefill has at most
    `prefill_rows` rows of `prefill_step_tokens` tokens and takes about `prefill_slice_s`. For
    `cache_limit_bytes` 0 means a share of the budget. `wired_limit_bytes` 0 wires nothing, "auto"
    as `protocol/wiring.py` chooses once the models are loaded. `ranks` is None for one process,
    `ranks_split` how the models are split over several.
    A rank that is silent for `rank_silence_s` is lost.
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
    prompt_cache_dir_reserve_bytes: int = 0
    preload: list[str] | None = None
    memory_wait_s: float = 30.0
    stream_interval_s: float = 0.0
    prefill_reserve_bytes: int = 0
    wired_limit_bytes: WiredLimit = 0
    prefill_rows: int = 8
    prefill_slice_s: float = 1.0
    compiled_sampling: bool = False
    ranks: RankGroup | None = None
    rank_silence_s: float = 30.0
    ranks_split: SplitSetting = "auto"


class Sibling(Data, frozen=True):
    """A further sequence of a `Submit`; it differs from the first in these fields alone."""

    id: int
    seed: int
    resume: list[int] = []


class Submit(Message, frozen=True):
    """A prompt, and one sequence or several to generate from it.

    `id`, the seed of `sampling` and `resume` are those of the first sequence; `siblings` are the
    others, for which the prompt is prepared once.

    `max_tokens` None means up to the context length. With `ceiling` it is cut to the room that
    the context leaves for the answer, else a request above the room is rejected. `stop` are
    stop strings. With `echo` the prompt's text is returned. `resume` are the token ids of this
    answer that were delivered before, by an earlier worker: they are replayed without events, and
    generation continues after them. `logprobs` and `prompt_logprobs` request log-probabilities of
    the answer's and the prompt's tokens, and are the number of alternatives. Without `calls` no
    text is parsed as a tool call. `grammar` constrains the whole answer, and `grammar_param` is the
    parameter that sets it, which a rejection names. `client` is whose request
    it is: clients that wait get fair turns. A request of a lower `priority` comes first. With
    `skip_special_tokens` the text, also that of `echo`, is without control tokens. After
    `thinking_budget` tokens of reasoning its end marker is written; a model without such markers
    ignores it. With `progress` the end of its prefill has a `Progress`, too, before the first
    token. `prediction` is a text that the answer may repeat.
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
    siblings: list[Sibling] = []
    client: str = ""
    skip_special_tokens: bool = True
    ceiling: bool = False
    thinking_budget: int | None = None
    progress: bool = False
    priority: int = 0
    prediction: str = ""
    grammar_param: str = "structured_outputs"

    def sequences(self) -> list[Submit]:
        """Each sequence as a `Submit` of its own; all share one prompt."""
        first = msgspec.structs.replace(self, siblings=[]) if self.siblings else self
        return [first, *(_to_submit(first, sibling) for sibling in self.siblings)]


def _to_submit(first: Submit, sibling: Sibling) -> Submit:
    sampling = msgspec.structs.replace(first.sampling, seed=sibling.seed)
    return msgspec.structs.replace(first, id=sibling.id, sampling=sampling, resume=sibling.resume)


class Cancel(Message, frozen=True):
    """Abort these requests; unknown ids are ignored."""

    ids: list[int]


class RenameClient(Message, frozen=True):
    """The requests of the client `former` are those of `client`, as it turns out."""

    former: str
    client: str


class SetMaxRunning(Message, frozen=True):
    """Change how many sequences of one model may run, up to the number in `Configure`."""

    max_running: int


class Ping(Message, frozen=True):
    """Answered by `Pong` at once, whatever the device does."""


class Shutdown(Message, frozen=True):
    """End the engine core's loop and the process."""


class Load(Message, frozen=True):
    """Load this model unless it is loaded; answered by `CommandResult` with the same ticket."""

    ticket: int
    model: str


class Unload(Message, frozen=True):
    """Unload this model if it is idle; answered by `CommandResult`."""

    ticket: int
    model: str


class Pin(Message, frozen=True):
    """Pin this model, so that it is never evicted, or unpin it; answered by `CommandResult`."""

    ticket: int
    model: str
    pinned: bool


# What a client asks of a model.
Request = Submit | Tokenize | Embed
Command = Load | Unload | Pin
ToWorker = Configure | Request | Cancel | RenameClient | SetMaxRunning | Command | Ping | Shutdown

# ---------------------------------------------------------------- to the service


class Loading(Message, frozen=True):
    """Progress of loading one model's weights."""

    model: str
    done_bytes: int
    total_bytes: int


class ModelsChanged(Message, frozen=True):
    """All configured models, in their order."""

    models: list[ModelState]


class CommandResult(Message, frozen=True):
    """The result of a `Load`, `Unload` or `Pin`; `code` and `message` are set if it failed."""

    ticket: int
    code: str | None = None
    message: str | None = None


class Ready(Message, frozen=True):
    """The models to preload are loaded, and `ModelsChanged` was sent; None: nothing is wired."""

    device: Device
    memory: Memory
    wiring: Wiring | None = None


class Step(Message, frozen=True):
    """The events of one device step; it also shows that the worker makes progress."""

    events: list[Event]
    stats: Stats


class Pong(Message, frozen=True):
    """The answer to `Ping`: the process lives, and this is the device call in progress.

    `call` is the number of the call, 0 while the device has no work. `reckoned_s` is how long
    the worker expects it to take, 0 if unknown. With `loading` it reads a part of a model.
    """

    call: int = 0
    reckoned_s: float = 0.0
    loading: bool = False


class RanksMet(Message, frozen=True):
    """The other ranks that rank 0 has met so far; with `complete` the group is made."""

    ranks: list[int]
    complete: bool = False


class Fatal(Message, frozen=True):
    """The last message of a worker that fails, with the reason; `rank` is one that is lost.

    A `silent` one has sent no heartbeats: it is stopped or cut off, which no request causes.
    """

    message: str
    rank: int | None = None
    silent: bool = False


ToService = (
    Loading
    | ModelsChanged
    | Ready
    | Step
    | Tokenized
    | Rejected
    | CommandResult
    | Pong
    | RanksMet
    | Fatal
)
