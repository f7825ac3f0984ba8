"""What an operator can set, with its bounds; read once, from four places.

In rising order of precedence: the defaults here, the environment (`MLXD_PORT`),
a TOML file (`port`), and the command line (`--port`). `Settings` is the one list:
variables, keys, flags, the help text and the documentation are made from it.
No other module reads the environment.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta

from service.model_settings import (
    DEMO,
    DEMO_ID,
    RESERVED_ID,
    ModelSettings,
    model_id,
    parse_models,
    read_models,
)
from service.scalars import (
    VARIABLE_PREFIX,
    Scalar,
    SettingsError,
    list_scalars,
    refuse_unknown,
)

__all__ = [
    "ModelSettings",
    "Settings",
    "SettingsError",
    "describe_settings",
    "load_settings",
    "model_id",
]

MIB = 2**20
GIB = 2**30
TIB = 2**40
CONFIG_VARIABLE = "MLXD_CONFIG"
MODELS_VARIABLE = "MLXD_MODELS"
COMMAND = "serve"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Sizes are bytes, times are seconds."""

    models: tuple[ModelSettings, ...] = (DEMO,)
    host: Annotated[str, Meta(description="The address to listen on.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(description="The port; 0 takes a free one.", ge=0, le=65535)] = 8000
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
    prefill_step_tokens: Annotated[
        int,
        Meta(description="Prompt tokens computed between two steps of decoding.", ge=1, le=65536),
    ] = 512
    memory_limit_bytes: Annotated[
        int, Meta(description="Device memory MLX may use; 0 is MLX's own limit.", ge=0, le=TIB)
    ] = 0
    cache_limit_bytes: Annotated[
        int, Meta(description="Freed memory MLX may keep; 0 is MLX's own limit.", ge=0, le=TIB)
    ] = 0
    keep_alive_s: Annotated[
        float, Meta(description="A silent stream gets a comment this often.", gt=0, le=3600)
    ] = 10.0
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
            description="OpenBLAS for MLX on Linux: auto, off, or a library's path.", min_length=1
        ),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least level that is logged."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"], Meta(description="auto: text on a terminal, else json.")
    ] = "auto"
    telemetry: Annotated[
        Literal["off", "console"], Meta(description="Where OpenTelemetry's traces and metrics go.")
    ] = "off"


def describe_settings() -> dict[str, Scalar]:
    """All settings but `models`, by name: what the help and the documentation say of each."""
    return list_scalars(Settings, without="models")


def read_environment() -> Mapping[str, str]:
    """This process's environment: settings in `MLXD_*`, and what the worker inherits."""
    return os.environ


def load_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of this run. `argv` are the words after the program's name.

    Raises:
        SettingsError: a value, a key, a variable or a flag cannot be used.
        SystemExit: the help was asked for, and has been printed.
    """
    scalars = describe_settings()
    flags = _read_flags(argv, scalars)
    path = flags.pop("config", None) or environ.get(CONFIG_VARIABLE)
    file = _read_file(path, scalars) if path else {}
    return Settings(**_read_environment(environ, scalars) | file | flags)


# ---------------------------------------------------------------- the three sources


def _read_environment(environ: Mapping[str, str], scalars: dict[str, Scalar]) -> dict[str, Any]:
    given = {name: text for name, text in environ.items() if name.startswith(VARIABLE_PREFIX)}
    known = [scalar.variable for scalar in scalars.values()]
    refuse_unknown(given, [*known, CONFIG_VARIABLE, MODELS_VARIABLE], "environment")
    values = {
        name: scalar.parse(given[scalar.variable], scalar.variable)
        for name, scalar in scalars.items()
        if scalar.variable in given
    }
    if (models := given.get(MODELS_VARIABLE)) is not None:
        values["models"] = parse_models(models.split(","), MODELS_VARIABLE)
    return values


def _read_file(path: str, scalars: dict[str, Scalar]) -> dict[str, Any]:
    try:
        table = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from None
    refuse_unknown(table, ["models", *scalars], path)
    values = {
        name: scalar.check(table[name], f"{path}: {name}")
        for name, scalar in scalars.items()
        if name in table
    }
    if "models" in table:
        values["models"] = read_models(table["models"], f"{path}: models")
    return values


def _read_flags(argv: Sequence[str], scalars: dict[str, Scalar]) -> dict[str, Any]:
    given, unknown = _make_parser(scalars).parse_known_args(argv)
    known = ["--model", "--config", *(scalar.flag for scalar in scalars.values())]
    refuse_unknown((word.partition("=")[0] for word in unknown), known, "command line")
    if given.command != COMMAND:
        raise SettingsError(f"command line: {given.command} is no command; {COMMAND} is")
    values = {
        name: scalar.parse(text, scalar.flag)
        for name, scalar in scalars.items()
        if (text := getattr(given, name)) is not None
    }
    if given.models is not None:
        values["models"] = parse_models(given.models, "--model")
    if given.config is not None:
        values["config"] = given.config
    return values


class _Parser(argparse.ArgumentParser):
    """argparse, but what is wrong is raised."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"command line: {message}")


def _make_parser(scalars: dict[str, Scalar]) -> _Parser:
    parser = _Parser(
        prog="mlxd",
        description="Serve MLX models by OpenAI's API. Flags go before a file, a file before "
        f"variables; a file's keys are the flags' names with underscores, and {MODELS_VARIABLE} "
        "takes the models of --model with commas between them.",
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", default=COMMAND, metavar=COMMAND)
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="[ID=]SOURCE",
        help="a folder or a hub id, with the id to serve it by; may be given again; the first is "
        f"also served as `{RESERVED_ID}`; none: the built-in {DEMO_ID}",
    )
    parser.add_argument("--config", metavar="PATH", help=f"a TOML file [{CONFIG_VARIABLE}]")
    for scalar in scalars.values():
        parser.add_argument(
            scalar.flag,
            dest=scalar.name,
            metavar="VALUE",
            help=f"{scalar.description} It is {scalar.kind}; default {scalar.default} "
            f"[{scalar.variable}]",
        )
    return parser
