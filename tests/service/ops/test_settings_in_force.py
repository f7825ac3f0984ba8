"""The settings in force are shown, and those that change nothing are named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.units import GIB
from service.config.api_keys import make_key
from service.config.model_settings import DEMO, ModelSettings
from service.config.settings import Settings
from service.ops.settings_in_force import (
    SettingsReport,
    Surroundings,
    cache_of,
    find_without_effect,
    list_conditions,
)
from tests.service.parts import make_parts

KEY = make_key("one")[1]
MAC = Surroundings(keys=(KEY,), exports_traces=True, platform="darwin")
LINUX = Surroundings(keys=None, exports_traces=False, platform="linux")

OWN_LIMITS = dataclasses.replace(
    MAC, keys=(replace(KEY, max_concurrent=1, tokens_per_minute=1, priority=1),)
)
MIXED_LIMITS = dataclasses.replace(OWN_LIMITS, keys=(*(OWN_LIMITS.keys or ()), KEY))
EMBEDDER = ModelSettings(id="vectors", source="vectors", kind="embedding")

# Settings that change nothing, where they do, and the setting that is named.
INERT: list[tuple[str, dict[str, Any], Surroundings]] = [
    (
        "kv_quantisation",
        {"kv_quantisation": "8bit", "models": (replace(DEMO, kv_quantisation="off"),)},
        MAC,
    ),
    ("draft_model", {"draft_model": "x", "models": (replace(DEMO, draft_model="off"),)}, MAC),
    ("draft_model", {"draft_model": "x", "models": (replace(DEMO, speculation="off"),)}, MAC),
    ("compiled_sampling", {"compiled_sampling": "on"}, LINUX),
    ("wired_limit_bytes", {"wired_limit_bytes": "auto"}, LINUX),
    ("keep_awake", {"keep_awake": "off"}, LINUX),
    ("blas", {"blas": "off"}, MAC),
    ("allocator", {"allocator": "off"}, MAC),
    ("prompt_cache_dir", {"prompt_cache_dir": "cache", "prompt_cache_bytes": 0}, LINUX),
    ("prompt_cache_dir_bytes", {"prompt_cache_dir_bytes": GIB}, LINUX),
    ("prompt_cache_dir_reserve_bytes", {"prompt_cache_dir_reserve_bytes": GIB}, LINUX),
    ("log_file_bytes", {"log_file_bytes": GIB}, LINUX),
    ("log_files", {"log_files": 2}, LINUX),
    ("response_store_bytes", {"response_store": "off", "response_store_bytes": GIB}, LINUX),
    ("response_store_ttl_s", {"response_store": "off", "response_store_ttl_s": 5.0}, LINUX),
    ("without_keys", {"without_keys": "anyone-on-the-network"}, MAC),
    ("key_max_concurrent", {"key_max_concurrent": 2}, LINUX),
    ("key_tokens_per_minute", {"key_tokens_per_minute": 2}, LINUX),
    ("key_max_concurrent", {"key_max_concurrent": 2}, OWN_LIMITS),
    ("key_tokens_per_minute", {"key_tokens_per_minute": 2}, OWN_LIMITS),
    ("key_priority", {"key_priority": -2}, OWN_LIMITS),
    ("speculation", {"speculation": "on", "models": (replace(DEMO, speculation="off"),)}, LINUX),
    (
        "context_limit_tokens",
        {"context_limit_tokens": 9, "models": (replace(DEMO, context_limit_tokens=5),)},
        LINUX,
    ),
    (
        "context_limit_tokens",
        {"context_limit_tokens": 9},
        dataclasses.replace(LINUX, contexts=(8, 5)),
    ),
    ("embedding_token_ids", {"embedding_token_ids": "accept"}, LINUX),
    ("prompt_cache_bytes", {"prompt_cache_bytes": GIB, "models": (EMBEDDER,)}, LINUX),
    ("prompt_cache_dir", {"prompt_cache_dir": "x", "models": (EMBEDDER,)}, LINUX),
    ("hosted_tools", {"hosted_tools": "refuse", "models": (EMBEDDER,)}, LINUX),
    ("strict_max_tokens", {"strict_max_tokens": "on", "models": (EMBEDDER,)}, LINUX),
    ("idle_s of mlxd-demo", {"models": (replace(DEMO, pinned=True, idle_s=5.0),)}, LINUX),
    (
        "draft_model of mlxd-demo",
        {"models": (replace(DEMO, draft_model="x", speculation="off"),)},
        LINUX,
    ),
    ("record_content", {"record_content": "on"}, LINUX),
    ("memory_wait_s", {"memory_wait_s": 200.0}, LINUX),
    ("ranks_python", {"ranks_python": "/python"}, MAC),
    ("ranks_cwd", {"ranks_cwd": "/mlxd"}, MAC),
    ("ranks_network", {"ranks_network": "public", "ranks": 2}, MAC),
    ("ranks_backend", {"ranks_backend": "any"}, MAC),
    ("ranks_split", {"ranks_split": "pipeline"}, MAC),
    ("ranks_away_s", {"ranks_away_s": 5.0}, MAC),
]


def named(settings: Settings, surroundings: Surroundings) -> list[str]:
    return [each.name for each in find_without_effect(settings, surroundings)]


@pytest.mark.parametrize(("name", "changed", "surroundings"), INERT)
def test_a_setting_that_changes_nothing_is_named_with_the_reason(
    name: str, changed: dict[str, Any], surroundings: Surroundings
) -> None:
    [found] = find_without_effect(Settings(**changed), surroundings)
    assert found.name == name
    assert found.reason


@pytest.mark.parametrize("surroundings", [MAC, LINUX])
def test_defaults_are_never_named(surroundings: Surroundings) -> None:
    assert named(Settings(), surroundings) == []


def test_limits_of_keys_count_where_a_key_has_no_own() -> None:
    limits: dict[str, Any] = {
        "key_max_concurrent": 2,
        "key_tokens_per_minute": 2,
        "key_priority": -2,
    }
    assert named(Settings(**limits), MIXED_LIMITS) == []
    assert named(Settings(key_priority=-2), LINUX) == []


def test_a_setting_with_an_effect_is_not_named() -> None:
    settings = Settings(
        prompt_cache_dir="cache",
        prompt_cache_dir_bytes=GIB,
        log_file="log",
        log_files=2,
        key_max_concurrent=2,
        record_content="on",
        compiled_sampling="on",
        idle_unload_s=60.0,
        memory_wait_s=100.0,
    )
    assert named(settings, MAC) == []


def test_an_idle_time_that_every_model_overrides_is_named() -> None:
    own = replace(DEMO, idle_s=5.0)
    assert named(Settings(models=(DEMO, own), idle_unload_s=60.0), LINUX) == []
    assert named(Settings(models=(own, own), idle_unload_s=60.0), LINUX) == ["idle_unload_s"]


def test_each_condition_names_settings_that_exist() -> None:
    names = {name for _, names, _ in list_conditions(Settings(), LINUX) for name in names}
    assert names <= set(Settings.__struct_fields__)
    inert = {name for name, _, _ in INERT if name in Settings.__struct_fields__}
    assert inert | {"idle_unload_s"} == names


def test_what_is_shown_is_what_is_in_force() -> None:
    settings = Settings(max_running=6, max_waiting=4, prompt_cache_bytes=0, prompt_cache_dir="here")
    report = SettingsReport(settings, make_parts(settings).supervisor, lambda: LINUX)
    shown = report.report(str)
    slots = shown.slots
    assert (slots.running, slots.max_running, slots.in_flight, slots.client_share) == (6, 6, 10, 5)
    assert shown.prefill.step_tokens == settings.prefill_step_tokens
    cache = shown.memory.prompt_cache
    assert (cache.memory_bytes, cache.disk_bytes) == (0, 0)
    assert [each.name for each in shown.without_effect] == ["prompt_cache_dir"]
    assert (shown.speculation.asked, shown.speculation.on) == ("auto", False)
    assert shown.kv_quantisation.on is False
    assert shown.key_limits.required is False
    assert shown.key_limits.priority == settings.key_priority


def test_the_prompt_cache_is_never_shown_larger_than_the_memory() -> None:
    settings = Settings(prompt_cache_bytes=2 * GIB)
    assert cache_of(settings, GIB).memory_bytes == GIB
    assert cache_of(settings, 4 * GIB).memory_bytes == 2 * GIB
    assert cache_of(settings, 0).memory_bytes == 2 * GIB
