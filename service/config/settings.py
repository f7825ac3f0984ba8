"""The settings of the service, with their bounds and defaults.

`Settings` is the only list: environment variables, keys of the file, flags, the help text and
the documentation are made from it. `sources` reads the values. No other module reads the
environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from protocol.units import GIB, MIB
from service.config.api_keys import ApiKey
from service.config.model_settings import (
    DEMO,
    KVQuantisation,
    ModelSettings,
    SpeculationSetting,
)
from service.config.rank_settings import RankSettings
from service.config.scalars import SettingField, list_setting_fields, path_meta

TIB = 1024 * GIB


class Settings(RankSettings, frozen=True, kw_only=True):
    """All settings. Sizes are bytes, times are seconds."""

    models: tuple[ModelSettings, ...] = (DEMO,)
    api_keys: tuple[ApiKey, ...] = ()
    host: Annotated[str, Meta(description="The address to listen on.", min_length=1)] = "127.0.0.1"
    port: Annotated[
        int, Meta(description="The port to listen on; 0 chooses a free one.", ge=0, le=65535)
    ] = 8000
    without_keys: Annotated[
        Literal["loopback-only", "anyone-on-the-network"],
        Meta(description="Which clients are served while no API key is configured."),
    ] = "loopback-only"
    tls_cert: Annotated[
        str,
        path_meta("A certificate with its chain (PEM); with it the service accepts only TLS."),
    ] = ""
    tls_key: Annotated[
        str,
        path_meta("The private key of the certificate (PEM)."),
    ] = ""
    keys_file: Annotated[
        str,
        path_meta(
            "The file of `mlxd keys`; if it exists, keys are required; off is no file.",
            min_length=1,
        ),
    ] = "~/.config/mlxd/keys.json"
    key_max_concurrent: Annotated[
        int, Meta(description="Concurrent requests per API key; 0 is no limit.", ge=0, le=65536)
    ] = 0
    key_tokens_per_minute: Annotated[
        int,
        Meta(
            description="Prompt and answer tokens per minute and API key; 0 is no limit.",
            ge=0,
            le=10**9,
        ),
    ] = 0
    key_priority: Annotated[
        int,
        Meta(
            description="The lowest `priority` of requests, where the key has no own; 0 is usual.",
            ge=-(2**31) + 1,
            le=2**31 - 1,
        ),
    ] = 0
    allowed_hosts: Annotated[
        str,
        Meta(description="Additional host names of the service, comma-separated; * allows any."),
    ] = ""
    allowed_origins: Annotated[
        str,
        Meta(description="Web origins whose pages may call, comma-separated; * allows any."),
    ] = ""
    max_running: Annotated[
        int, Meta(description="The most sequences that run at once.", ge=1, le=1024)
    ] = 32
    max_waiting: Annotated[
        int,
        Meta(
            description="The length of the waiting queue; further requests get 429.", ge=0, le=65536
        ),
    ] = 256
    queue_timeout_s: Annotated[
        float,
        Meta(
            description="How long a request waits for the device before it gets 503.",
            gt=0,
            le=86400,
        ),
    ] = 120.0
    max_connections: Annotated[
        int,
        Meta(
            description="The most open connections; beyond, idle ones are closed, then new ones.",
            ge=1,
            le=65536,
        ),
    ] = 1000
    write_stall_s: Annotated[
        float,
        Meta(
            description="A client that reads nothing for this time is disconnected.", gt=0, le=3600
        ),
    ] = 30.0
    max_body_bytes: Annotated[
        int,
        Meta(description="The largest request body; a larger one gets 413.", ge=1024, le=GIB),
    ] = 16 * MIB
    body_memory_bytes: Annotated[
        int,
        Meta(
            description="The memory of all request bodies until their answers end; beyond it the "
            "slowest get 503. Bodies up to 64 KiB always have room.",
            ge=MIB,
            le=TIB,
        ),
    ] = 256 * MIB
    body_timeout_s: Annotated[
        float,
        Meta(
            description="How long a request body may take to arrive; a slower one gets 408.",
            gt=0,
            le=3600,
        ),
    ] = 30.0
    max_header_bytes: Annotated[
        int,
        Meta(
            description="The total size of a request's headers; larger ones get 431.",
            ge=1024,
            le=MIB,
        ),
    ] = 16 * 1024
    context_limit_tokens: Annotated[
        int,
        Meta(description="The longest context; 0 is the model's own limit.", ge=0, le=2**31 - 1),
    ] = 0
    kv_quantisation: Annotated[
        KVQuantisation,
        Meta(
            description="The quantisation of KV caches, of models without their own: about half or "
            "a quarter of the memory, and answers that differ from those of full precision."
        ),
    ] = "off"
    prefill_step_tokens: Annotated[
        int,
        Meta(
            description="The most tokens of a prompt computed between two decoding steps; fewer "
            "where they would take more than about a second, or delay streams.",
            ge=1,
            le=65536,
        ),
    ] = 512
    memory_limit_bytes: Annotated[
        int,
        Meta(
            description="The worker's memory budget: weights, KV caches, prompt cache and prefill; "
            "0 is Metal's recommendation, without Metal three quarters of the machine's memory.",
            ge=0,
            le=TIB,
        ),
    ] = 0
    memory_wait_s: Annotated[
        float,
        Meta(description="How long a request waits for memory before it gets 503.", gt=0, le=86400),
    ] = 30.0
    stream_interval_s: Annotated[
        float,
        Meta(
            description="How long an answer's text may wait for more, to be one event.", ge=0, le=1
        ),
    ] = 0.016
    prefill_reserve_bytes: Annotated[
        int, Meta(description="Memory reserved for prefill; 0 is 1/32 of the budget.", ge=0, le=TIB)
    ] = 0
    wired_limit_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=TIB)] | Literal["auto"],
        Meta(
            description="The memory that Metal may keep wired; 0 is none. auto wires the weights "
            "alone, once they are loaded, if they are more than three fifths of the working set "
            "that Metal recommends (macOS 15 or newer).",
        ),
    ] = 0
    compiled_sampling: Annotated[
        Literal["off", "on"],
        Meta(
            description="Compile the sampler, on Metal alone; `mlxd doctor --selftest` measures "
            "whether that pays."
        ),
    ] = "off"
    speculation: SpeculationSetting = "auto"
    draft_model: Annotated[
        str,
        Meta(description="A folder or hub id: a smaller model of the same vocabulary that drafts."),
    ] = ""
    idle_unload_s: Annotated[
        float,
        Meta(description="A model idle for this time is unloaded; 0 is never.", ge=0, le=2592000),
    ] = 0.0
    cache_limit_bytes: Annotated[
        int,
        Meta(
            description="Freed memory that MLX may keep for reuse; 0 is 2 GiB or 1/16 of the "
            "memory budget, whichever is less.",
            ge=0,
            le=TIB,
        ),
    ] = 0
    prompt_cache_bytes: Annotated[
        int,
        Meta(description="The memory of the cache of earlier prompts; 0 is off.", ge=0, le=TIB),
    ] = 2 * GIB
    prompt_cache_dir: Annotated[
        str,
        path_meta(
            "A folder that keeps the prompt cache across restarts, in a subfolder "
            "mlxd-prompt-cache; its files contain prompts. Empty is off."
        ),
    ] = ""
    prompt_cache_dir_bytes: Annotated[
        int, Meta(description="The total size of the files in prompt_cache_dir.", ge=MIB, le=TIB)
    ] = 8 * GIB
    prompt_cache_dir_reserve_bytes: Annotated[
        int,
        Meta(
            description="The space that the files in prompt_cache_dir leave free on their disk; "
            "0 is 1 GiB or a twentieth of the disk, whichever is less.",
            ge=0,
            le=TIB,
        ),
    ] = 0
    response_store: Annotated[
        str,
        path_meta(
            "Where responses and conversations, with prompts and answers, are kept: "
            "memory, off, or the path of an SQLite file.",
            min_length=1,
        ),
    ] = "memory"
    response_store_bytes: Annotated[
        int, Meta(description="The most bytes of them; the least used are evicted.", ge=MIB, le=TIB)
    ] = 256 * MIB
    response_store_ttl_s: Annotated[
        float,
        Meta(
            description="How long a response is kept from its end, and a conversation from its "
            "last change.",
            gt=0,
            le=31536000,
        ),
    ] = 86400.0
    installation_key_file: Annotated[
        str,
        path_meta(
            "The key that signs encoded thinking, made when needed; off: none is kept.",
            min_length=1,
        ),
    ] = "~/.config/mlxd/installation.key"
    keep_alive_s: Annotated[
        float,
        Meta(description="The interval of comments in a stream without events.", gt=0, le=3600),
    ] = 10.0
    keep_awake: Annotated[
        Literal["while-running", "off"],
        Meta(description="When a Mac is kept from going to sleep while it is idle."),
    ] = "while-running"
    drain_s: Annotated[
        float,
        Meta(description="How long running requests may go on after SIGTERM.", ge=0, le=86400),
    ] = 25.0
    load_wait_s: Annotated[
        float,
        Meta(
            description="How long a request waits for a loading worker before it gets 503.",
            ge=0,
            le=3600,
        ),
    ] = 0.0
    load_timeout_s: Annotated[
        float,
        Meta(
            description="A worker that makes no progress in loading for this time is replaced. "
            "A download does not count as progress.",
            gt=0,
            le=86400,
        ),
    ] = 3600.0
    stall_s: Annotated[
        float,
        Meta(
            description="A worker that answers no ping for this time is replaced, and one whose "
            "device call takes longer than this and than ten times the expected time.",
            gt=0,
            le=86400,
        ),
    ] = 60.0
    ranks_away_s: Annotated[
        float,
        Meta(description="How long requests wait for a rank that is away.", gt=0, le=86400),
    ] = 90.0
    unknown_fields: Annotated[
        Literal["messages", "refuse", "warn"],
        Meta(
            description="Which unknown fields are ignored, with a warning and the header "
            "x-mlxd-ignored: messages is those of messages, refuse none, warn all; "
            "the others are refused."
        ),
    ] = "messages"
    hosted_tools: Annotated[
        Literal["leave-out", "refuse"],
        Meta(
            description="leave-out: tools of /v1/responses that run at OpenAI are not offered to "
            "the model, with the header x-mlxd-left-out. refuse: they get 400."
        ),
    ] = "leave-out"
    embedding_token_ids: Annotated[
        Literal["refuse", "accept"],
        Meta(
            description="Token ids as the input of /v1/embeddings: those of OpenAI's tokenizer, "
            "which clients send, are other words here."
        ),
    ] = "refuse"
    strict_max_tokens: Annotated[
        Literal["off", "on"],
        Meta(
            description="off: max_tokens is a ceiling, cut to what the context and the memory "
            "hold. on: a request above them gets 400, and the memory of the whole answer is "
            "reserved at its start."
        ),
    ] = "off"
    soften: Annotated[
        str,
        Meta(
            description="Parameters, comma-separated, that are ignored where a model cannot honour "
            "them, with the same header: reasoning_effort, service_tier, store, verbosity, "
            "web_search_options."
        ),
    ] = ""
    blas: Annotated[
        str,
        path_meta("The OpenBLAS library for MLX on Linux: auto, off, or a path.", min_length=1),
    ] = "auto"
    allocator: Annotated[
        str,
        path_meta(
            "The jemalloc library for the worker on Linux: auto, off, or a path.", min_length=1
        ),
    ] = "auto"
    log_file: Annotated[
        str,
        path_meta("The log file; empty logs to standard error."),
    ] = ""
    log_file_bytes: Annotated[
        int,
        Meta(description="The size at which the log file is rotated.", ge=1024, le=TIB),
    ] = 10 * MIB
    log_files: Annotated[
        int, Meta(description="The number of rotated log files that are kept.", ge=1, le=1000)
    ] = 5
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The lowest level that is logged."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="The format of the log; auto is text on a terminal, else json."),
    ] = "auto"
    replica_tag: Annotated[
        str,
        Meta(
            description="The name of this service among several behind a proxy: in the ids of "
            "responses and conversations, and in x-mlxd-replica. Empty is none.",
            pattern="^[a-z0-9]{0,16}$",
        ),
    ] = ""
    record_content: Annotated[
        Literal["off", "on"],
        Meta(description="Whether exported traces contain prompts and answers."),
    ] = "off"


def describe_settings() -> Mapping[str, SettingField]:
    """All settings that are a single value, by name; not `models` and `api_keys`."""
    return list_setting_fields(Settings, without=("models", "api_keys"))


def read_environment() -> Mapping[str, str]:
    """The environment of this process: settings in `MLXD_*`, and variables for the worker."""
    return os.environ
