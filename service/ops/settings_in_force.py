"""What the settings come to: the limits in force, and the settings that change nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from protocol.model_states import ModelState
from service.config.api_keys import ApiKey
from service.config.model_settings import NO_DRAFT_MODEL, ModelSettings, model_id
from service.config.settings import Settings
from service.inflight.shares import share_of
from service.ops.health import prefill_health
from service.schema.batching import describe_speculation
from service.schema.parameter_table import PARAMETERS
from service.schema.settings_in_force import (
    NOT_WITH_RANKS,
    KeyLimitsInForce,
    KVQuantisationInForce,
    MemoryInForce,
    PromptCacheInForce,
    RanksInForce,
    SettingsInForce,
    SettingWithoutEffect,
    SlotsInForce,
    SpeculationInForce,
)
from service.supervision.supervisor import Supervisor

MAC, LINUX = "darwin", "linux"
DEFAULTS = Settings()
CACHE_FOLDER_SETTINGS = ("prompt_cache_dir_bytes", "prompt_cache_dir_reserve_bytes")
STORE_SETTINGS = ("response_store_bytes", "response_store_ttl_s")
HOST_SETTINGS = ("ranks_python", "ranks_cwd", "ranks_network")
RANK_SETTINGS = ("ranks_backend", "ranks_split", "ranks_away_s")
CACHE_SETTINGS = ("prompt_cache_bytes", "prompt_cache_dir", *CACHE_FOLDER_SETTINGS)

GENERATION_ALONE = ("strict_max_tokens", "hosted_tools", "compiled_sampling")

# Whether it is so, the settings that then change nothing, and why.
Condition = tuple[bool, tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What besides the settings decides whether one has an effect.

    `keys` are the API keys, None where none is required; `contexts` the context lengths of the
    models that are loaded, in tokens. `platform` is that of `sys.platform`.
    """

    keys: Sequence[ApiKey] | None
    exports_traces: bool
    contexts: Sequence[int] = ()
    platform: str = sys.platform


class SettingsReport:
    """Reports the settings in force."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        look_around: Callable[[], Surroundings],
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._look_around = look_around

    def report(self, show: Callable[[str], str]) -> SettingsInForce:
        """The settings in force now; `show` conceals what the caller may not see of a text."""
        settings, surroundings = self._settings, self._look_around()
        stats = self._supervisor.stats
        return SettingsInForce(
            slots=self._slots(),
            prefill=prefill_health(self._supervisor, show),
            memory=MemoryInForce(
                limit_bytes=stats.memory.limit if stats else 0,
                prompt_cache=cache_of(settings, stats.memory.limit if stats else 0),
            ),
            speculation=speculation_of(settings, self._supervisor.model_states.states),
            kv_quantisation=self._quantisation(),
            stream_interval_s=settings.stream_interval_s,
            priority="priority" in PARAMETERS and PARAMETERS["priority"].support == "honoured",
            key_limits=KeyLimitsInForce(
                required=surroundings.keys is not None,
                max_concurrent=settings.key_max_concurrent,
                tokens_per_minute=settings.key_tokens_per_minute,
                priority=settings.key_priority,
            ),
            ranks=RanksInForce(
                size=self._supervisor.ranks.size,
                asked=settings.ranks_split,
                hosts=list(self._supervisor.attendance.hosts),
                away_s=settings.ranks_away_s,
                refused=list(NOT_WITH_RANKS) if self._supervisor.ranks.size > 1 else [],
            ),
            without_effect=[*find_without_effect(settings, surroundings)],
        )

    def _quantisation(self) -> KVQuantisationInForce:
        """Which loaded models have quantised keys and values."""
        states = self._supervisor.model_states.states
        loaded = {state.id: state.info.kv for state in states if state.info is not None}
        quantised = [id for id, kv in loaded.items() if kv.layers]
        reason = f"{len(quantised)} of {len(loaded)} loaded models have quantised KV caches"
        asked = self._settings.kv_quantisation
        return KVQuantisationInForce(asked=asked, on=bool(quantised), reason=reason)

    def _slots(self) -> SlotsInForce:
        settings = self._settings
        in_flight = settings.max_running + settings.max_waiting
        return SlotsInForce(
            running=self._supervisor.max_running,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            in_flight=in_flight,
            client_share=share_of(in_flight),
            queue_timeout_s=settings.queue_timeout_s,
            memory_wait_s=settings.memory_wait_s,
        )


def speculation_of(settings: Settings, states: Iterable[ModelState]) -> SpeculationInForce:
    """Speculation by the models that are loaded."""
    shown = [(state.id, describe_speculation(state.rules)) for state in states]
    reasons = [f"{id}: {each.reason}" for id, each in shown if each and each.reason]
    return SpeculationInForce(
        asked=settings.speculation,
        on=any(each is not None and each.on for _, each in shown),
        reason="; ".join(reasons),
    )


def cache_of(settings: Settings, limit_bytes: int) -> PromptCacheInForce:
    """The prompt cache: without memory it has no files either, and the budget holds it.

    `limit_bytes` is the worker's memory budget, 0 while that is unknown.
    """
    has_files = settings.prompt_cache_bytes and settings.prompt_cache_dir
    return PromptCacheInForce(
        memory_bytes=min(settings.prompt_cache_bytes, limit_bytes or settings.prompt_cache_bytes),
        disk_bytes=settings.prompt_cache_dir_bytes if has_files else 0,
    )


def find_without_effect(
    settings: Settings, surroundings: Surroundings
) -> Iterator[SettingWithoutEffect]:
    """The settings that are not at their default and change nothing, with the reason."""
    reasons: dict[str, str] = {}
    for holds, names, reason in list_conditions(settings, surroundings):
        for name in names if holds else ():
            if getattr(settings, name) != getattr(DEFAULTS, name):
                reasons.setdefault(name, reason)
    for model in settings.models:
        for holds, name, reason in list_model_conditions(model, settings):
            if holds and getattr(model, name) is not None:
                reasons[f"{name} of {model_id(model)}"] = reason
    for name, reason in reasons.items():
        yield SettingWithoutEffect(name, reason)


def list_model_conditions(model: ModelSettings, settings: Settings) -> list[tuple[bool, str, str]]:
    """When a model's own setting changes nothing: whether that is so, which one, and why."""
    speculation = model.speculation or settings.speculation
    is_off = speculation == "off" and model.draft_model != NO_DRAFT_MODEL
    return [
        (model.pinned, "idle_s", "the model is pinned, so that it is never unloaded"),
        (is_off, "draft_model", "its speculation is off"),
    ]


def list_key_conditions(keys: Sequence[ApiKey] | None) -> Iterator[Condition]:
    """When settings of keys change nothing."""
    yield keys is not None, ("without_keys",), "API keys are configured"
    yield keys is None, ("key_max_concurrent", "key_tokens_per_minute"), "no API key is configured"
    for name in ("max_concurrent", "tokens_per_minute", "priority"):
        own = keys is not None and all(getattr(key, name) is not None for key in keys)
        yield own, (f"key_{name}",), f"every API key has its own {name}"


def list_kind_conditions(settings: Settings) -> Iterator[Condition]:
    """When settings of one kind of model change nothing."""
    kinds = {model.kind for model in settings.models}
    generates, embeds = "generation" in kinds, "embedding" in kinds
    yield not generates, (*CACHE_SETTINGS, *GENERATION_ALONE), "no model generates"
    yield not embeds, ("embedding_token_ids",), "there is no embedding model"


def list_conditions(settings: Settings, surroundings: Surroundings) -> list[Condition]:
    """When settings change nothing: whether that is so here, which ones, and why."""
    has_cache = bool(settings.prompt_cache_bytes)
    has_files = has_cache and bool(settings.prompt_cache_dir)
    is_mac = surroundings.platform == MAC
    is_linux = surroundings.platform == LINUX
    own_idle = all(model.pinned or model.idle_s is not None for model in settings.models)
    generating = [model for model in settings.models if model.kind == "generation"]
    own_kv = all(model.kv_quantisation is not None for model in generating)
    speculates = any((m.speculation or settings.speculation) != "off" for m in generating)
    own_speculation = all(model.speculation is not None for model in generating)
    own_context = all(model.context_limit_tokens for model in settings.models)
    contexts, limit = surroundings.contexts, settings.context_limit_tokens
    is_beyond = bool(contexts) and all(tokens < limit for tokens in contexts)
    own_draft = all(model.draft_model is not None for model in generating)
    outlasted = settings.memory_wait_s >= settings.queue_timeout_s
    is_alone = settings.ranks == 1 and not settings.hosts
    return [
        *list_key_conditions(surroundings.keys),
        *list_kind_conditions(settings),
        (own_context, ("context_limit_tokens",), "every model has its own context_limit_tokens"),
        (is_beyond, ("context_limit_tokens",), "the loaded models' own contexts are no longer"),
        (own_speculation, ("speculation",), "every model that generates has its own speculation"),
        (own_kv, ("kv_quantisation",), "every model that generates has its own kv_quantisation"),
        (own_draft, ("draft_model",), "every model that generates has its own draft_model"),
        (not speculates and not own_draft, ("draft_model",), "speculation is off"),
        (not is_mac, ("compiled_sampling", "wired_limit_bytes"), "it is for Metal alone"),
        (not is_mac, ("keep_awake",), "it is for macOS alone"),
        (not is_linux, ("blas", "allocator"), "it is for Linux alone"),
        (not has_cache, ("prompt_cache_dir",), "prompt_cache_bytes is 0: there is no prompt cache"),
        (not has_files, CACHE_FOLDER_SETTINGS, "the prompt cache has no files"),
        (not settings.log_file, ("log_file_bytes", "log_files"), "log_file is not set"),
        (settings.response_store == "off", STORE_SETTINGS, "response_store is off"),
        (not surroundings.exports_traces, ("record_content",), "no traces are exported"),
        (own_idle, ("idle_unload_s",), "every model is pinned or has its own idle_s"),
        (outlasted, ("memory_wait_s",), "queue_timeout_s ends each wait sooner"),
        (not settings.hosts, HOST_SETTINGS, "hosts is not set"),
        (is_alone, RANK_SETTINGS, "one process computes the models"),
    ]
