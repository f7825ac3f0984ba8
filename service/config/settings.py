"""What an operator can set, with its bounds.

`Settings` is the one list: variables, keys, flags, the help text and the documentation
are made from it. `configuration` reads them. No other module reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from service.config.api_keys import ApiKey
from service.config.model_settings import DEMO, ModelSettings
from service.config.scalars import PATH, SettingField, list_setting_fields

MIB = 2**20
GIB = 2**30
TIB = 2**40


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Sizes are bytes, times are seconds."""

    models: tuple[ModelSettings, ...] = (DEMO,)
    api_keys: tuple[ApiKey, ...] = ()
    host: Annotated[str, Meta(description="The address to listen on.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(description="The port; 0 takes a free one.", ge=0, le=65535)] = 8000
    without_keys: Annotated[
        Literal["loopback-only", "anyone-on-the-network"],
        Meta(description="Who is served while no API key is configured."),
    ] = "loopback-only"
    tls_cert: Annotated[
        str,
        Meta(
            description="A certificate with its chain (PEM): TLS is spoken, and only that.",
            extra_json_schema={"format": PATH},
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Meta(
            description="The certificate's private key (PEM).", extra_json_schema={"format": PATH}
        ),
    ] = ""
    keys_file: Annotated[
        str,
        Meta(
            description="The file of `mlxd keys`; one that exists makes keys required; off: none.",
            min_length=1,
            extra_json_schema={"format": PATH},
        ),
    ] = "~/.config/mlxd/keys.json"
    key_max_concurrent: Annotated[
        int, Meta(description="Requests at once for each API key; 0 sets no limit.", ge=0, le=65536)
    ] = 0
    key_tokens_per_minute: Annotated[
        int,
        Meta(
            description="Tokens of prompts and answers a minute for each API key; 0: no limit.",
            ge=0,
            le=10**9,
        ),
    ] = 0
    allowed_hosts: Annotated[
        str,
        Meta(description="Names the service has besides its own, with commas; * is any."),
    ] = ""
    allowed_origins: Annotated[
        str,
        Meta(description="Web sites whose pages may use it (https://a.example), commas; * is any."),
    ] = ""
    max_running: Annotated[
        int, Meta(description="Sequences on the device at once.", ge=1, le=1024)
    ] = 32
    max_waiting: Annotated[
        int,
        Meta(description="Requests that may wait for the device; more get 429.", ge=0, le=65536),
    ] = 256
    queue_timeout_s: Annotated[
        float,
        Meta(description="Time a request waits for the device before 503.", gt=0, le=86400),
    ] = 120.0
    max_connections: Annotated[
        int,
        Meta(
            description="Open connections; past them idle ones are closed, then new ones.",
            ge=1,
            le=65536,
        ),
    ] = 1000
    write_stall_s: Annotated[
        float,
        Meta(description="A client that reads nothing for this time is cut off.", gt=0, le=3600),
    ] = 30.0
    max_body_bytes: Annotated[
        int,
        Meta(description="The largest body of a request; a larger one gets 413.", ge=1024, le=GIB),
    ] = 16 * MIB
    body_timeout_s: Annotated[
        float, Meta(description="Time for a body to arrive; a slower one gets 408.", gt=0, le=3600)
    ] = 30.0
    max_header_bytes: Annotated[
        int, Meta(description="All headers of a request; larger ones get 431.", ge=1024, le=MIB)
    ] = 16 * 1024
    context_limit_tokens: Annotated[
        int, Meta(description="The longest context; 0 is the model's own.", ge=0, le=2**31 - 1)
    ] = 0
    kv_quantisation: Annotated[
        Literal["off", "8bit", "4bit"],
        Meta(
            description="How KV caches are quantised. mlx-lm 0.32.2 batches none that are: this is "
            "told by a warning and by /v1/capabilities, and nothing is quantised."
        ),
    ] = "off"
    prefill_step_tokens: Annotated[
        int,
        Meta(description="Prompt tokens computed between two steps of decoding.", ge=1, le=65536),
    ] = 512
    memory_limit_bytes: Annotated[
        int,
        Meta(
            description="The memory of the worker: weights, KV caches, prompt cache, prefill; 0 is "
            "what Metal recommends, elsewhere three quarters of the machine's.",
            ge=0,
            le=TIB,
        ),
    ] = 0
    memory_wait_s: Annotated[
        float, Meta(description="Time a request waits for memory before 503.", gt=0, le=86400)
    ] = 30.0
    prefill_reserve_bytes: Annotated[
        int,
        Meta(
            description="Memory kept free for computing prompts; 0 is a 32nd of the whole.",
            ge=0,
            le=TIB,
        ),
    ] = 0
    wired_limit_bytes: Annotated[
        int,
        Meta(description="Memory that Metal may keep resident; 0 leaves it alone.", ge=0, le=TIB),
    ] = 0
    idle_unload_s: Annotated[
        float,
        Meta(description="A model unused for this time is unloaded; 0 is never.", ge=0, le=2592000),
    ] = 0.0
    cache_limit_bytes: Annotated[
        int, Meta(description="Freed memory MLX may keep; 0 is MLX's own limit.", ge=0, le=TIB)
    ] = 0
    prompt_cache_bytes: Annotated[
        int,
        Meta(
            description="Memory for what was computed of earlier prompts, to be reused; 0 is off.",
            ge=0,
            le=TIB,
        ),
    ] = 2 * GIB
    prompt_cache_dir: Annotated[
        str,
        Meta(
            description="A folder for what was computed of prompts, to outlive a restart; its "
            "files hold prompts. Empty is off.",
            extra_json_schema={"format": PATH},
        ),
    ] = ""
    prompt_cache_dir_bytes: Annotated[
        int, Meta(description="What the files of prompt_cache_dir may take.", ge=MIB, le=TIB)
    ] = 8 * GIB
    keep_alive_s: Annotated[
        float, Meta(description="A silent stream gets a comment this often.", gt=0, le=3600)
    ] = 10.0
    keep_awake: Annotated[
        Literal["while-running", "off"],
        Meta(description="When a Mac is kept from going to sleep for want of input."),
    ] = "while-running"
    drain_s: Annotated[
        float,
        Meta(description="Time for running requests to finish after SIGTERM.", ge=0, le=86400),
    ] = 25.0
    load_wait_s: Annotated[
        float,
        Meta(description="Time a request waits for the worker to load before 503.", ge=0, le=3600),
    ] = 0.0
    load_timeout_s: Annotated[
        float,
        Meta(
            description="A loading worker that shows no progress for this long is replaced; "
            "a download shows none.",
            gt=0,
            le=86400,
        ),
    ] = 3600.0
    stall_s: Annotated[
        float,
        Meta(
            description="A busy worker that shows no progress for this long is replaced.",
            gt=0,
            le=86400,
        ),
    ] = 60.0
    unknown_fields: Annotated[
        Literal["refuse", "warn"],
        Meta(description="What is done about unknown fields in a request."),
    ] = "refuse"
    blas: Annotated[
        str,
        Meta(
            description="OpenBLAS for MLX on Linux: auto, off, or a library's path.",
            min_length=1,
            extra_json_schema={"format": PATH},
        ),
    ] = "auto"
    allocator: Annotated[
        str,
        Meta(
            description="jemalloc for the worker on Linux: auto, off, or a library's path.",
            min_length=1,
            extra_json_schema={"format": PATH},
        ),
    ] = "auto"
    log_file: Annotated[
        str,
        Meta(
            description="The log goes into this file rather than to standard error.",
            extra_json_schema={"format": PATH},
        ),
    ] = ""
    log_file_bytes: Annotated[
        int,
        Meta(description="A log file that has grown to this is set aside.", ge=1024, le=TIB),
    ] = 10 * MIB
    log_files: Annotated[
        int, Meta(description="Log files that are kept beside the one in use.", ge=1, le=1000)
    ] = 5
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least level that is logged."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"], Meta(description="auto: text on a terminal, else json.")
    ] = "auto"
    record_content: Annotated[
        Literal["off", "on"],
        Meta(description="Whether prompts and answers are written into exported traces."),
    ] = "off"


def describe_settings() -> dict[str, SettingField]:
    """All settings of one word, by name: what the help and the documentation say of each."""
    return list_setting_fields(Settings, without=("models", "api_keys"))


def read_environment() -> Mapping[str, str]:
    """This process's environment: settings in `MLXD_*`, and what the worker inherits."""
    return os.environ
