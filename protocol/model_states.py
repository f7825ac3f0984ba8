"""The models of the worker, as the service sees them: their states, and what is known of them."""

from __future__ import annotations

from typing import Literal

from protocol.batching import BatchRules
from protocol.quantisation import KVFacts
from protocol.ranks import Split
from protocol.structs import Data


class ModelDefaults(Data, frozen=True):
    """The sampling that a model's own files ask for, by the names of `Sampling`; None: nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class DraftModelFacts(Data, frozen=True):
    """The model that drafts for another: its name, and the bytes of its weights."""

    name: str
    weight_bytes: int


class ModelInfo(Data, frozen=True):
    """The facts of a loaded model; `thinks` is whether its answers may have reasoning.

    `call_syntaxes` are the names of those in which it writes tool calls, `reasoning_markers`
    what begins and ends its reasoning. `problems` are those of its folder, in words. `split` is
    how several ranks compute it together; None for one process. The weights of its `draft` model
    are part of `weight_bytes`.
    """

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
    thinks: bool = False
    fill_in_middle: bool = False
    # Whether its template renders a system message at the beginning, several, later ones.
    system_messages: bool = True
    leading_systems: bool = True
    inner_systems: bool = True
    call_syntaxes: list[str] = []
    reasoning_markers: list[str] = []
    problems: list[str] = []
    kv: KVFacts = KVFacts()
    split: Split | None = None
    draft: DraftModelFacts | None = None


LoadStatus = Literal["unloaded", "loading", "loaded", "failed"]


class ModelState(Data, frozen=True):
    """The current state of one configured model.

    `bytes` is the size of its weights, `done_bytes` how much of them is loaded. `reason` says
    why the last load failed, or what a pending load waits for. `context_length` and
    `defaults` are known once the model's files are on disk, also before it is loaded. `rules`
    are those of a loaded model.
    """

    id: str
    status: LoadStatus
    pinned: bool = False
    bytes: int = 0
    done_bytes: int = 0
    reason: str | None = None
    info: ModelInfo | None = None
    context_length: int | None = None
    defaults: ModelDefaults = ModelDefaults()
    rules: BatchRules | None = None
