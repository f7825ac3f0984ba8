"""The settings in force, as `GET /v1/capabilities` shows them: what they come to now.

No secret and no path of the machine is among them.
"""

from __future__ import annotations

import msgspec

from protocol.ranks import SplitSetting
from service.schema.health import PrefillHealth

# Refused where several ranks compute the models together.
NOT_WITH_RANKS = ("prompt_cache_dir", "wired_limit_bytes", "adapter", "draft_model")


class SlotsInForce(msgspec.Struct, frozen=True, kw_only=True):
    """How many sequences may be on the device, and wait for it.

    `running` is how many of each model may run now; it is below `max_running` for a while after a
    worker ran out of memory. All that run or wait are at most `in_flight`. While others wait, a
    client gets at most `client_share` of these.
    """

    running: int
    max_running: int
    max_waiting: int
    in_flight: int
    client_share: int
    queue_timeout_s: float
    memory_wait_s: float


class PromptCacheInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt cache: its most bytes in memory, at most the budget, and in files; 0 is off."""

    memory_bytes: int
    disk_bytes: int


class MemoryInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's memory budget; 0 until a worker has been ready."""

    limit_bytes: int
    prompt_cache: PromptCacheInForce


class SpeculationInForce(msgspec.Struct, frozen=True, kw_only=True):
    """Speculative decoding: what the setting asks for, and whether any loaded model does it.

    `reason` names the loaded models that do not, and why.
    """

    asked: str
    on: bool
    reason: str


class KVQuantisationInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The quantisation of KV caches: what the setting asks for, and whether a loaded model has it.

    A model may have its own setting; `/v1/capabilities` lists each.
    """

    asked: str
    on: bool
    reason: str


class RanksInForce(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes compute the models together, and the settings that these cannot have.

    `hosts` has the host of each. Requests wait for one that is away for at most `away_s`. `asked`
    is the setting `ranks_split`; how each model is split is shown with it.
    """

    size: int
    asked: SplitSetting
    hosts: list[str]
    away_s: float
    refused: list[str]


class KeyLimitsInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of each API key without its own; 0 is none. Without `required` keys none holds.

    `priority` is the lowest of a request, also without keys.
    """

    required: bool
    max_concurrent: int
    tokens_per_minute: int
    priority: int


class SettingWithoutEffect(msgspec.Struct, frozen=True):
    """A setting that is set and changes nothing, and why."""

    name: str
    reason: str


class SettingsInForce(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings come to now, for all models. `priority` is whether requests may set it.

    Text waits at most `stream_interval_s` for more, to be one event of its stream.
    `without_effect` names the settings that are set and change nothing.
    """

    slots: SlotsInForce
    prefill: PrefillHealth
    memory: MemoryInForce
    speculation: SpeculationInForce
    kv_quantisation: KVQuantisationInForce
    stream_interval_s: float
    priority: bool
    key_limits: KeyLimitsInForce
    ranks: RanksInForce
    without_effect: list[SettingWithoutEffect]
