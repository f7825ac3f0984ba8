"""Reads the settings of a run from their four sources, and remembers which gave each.

In rising order of precedence: the defaults of `Settings`, the environment (`MLXD_PORT`),
a TOML file (`port`), and the command line (`--port`).
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from service.config.api_keys import API_KEYS_VARIABLE, parse_keys
from service.config.model_settings import DEMO_ID, RESERVED_ID, parse_models, read_models
from service.config.scalars import VARIABLE_PREFIX, SettingField, SettingsError, refuse_unknown
from service.config.settings import Settings, describe_settings

CONFIG_VARIABLE = "MLXD_CONFIG"
MODELS_VARIABLE = "MLXD_MODELS"
COMMAND = "serve"


class Configuration(NamedTuple):
    """The settings of a run. `sources` tells of each that is not the default who set it."""

    settings: Settings
    sources: dict[str, str]


def load_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of this run. `argv` are the words after the command's name.

    Raises:
        SettingsError: a value, a key, a variable or a flag cannot be used.
        SystemExit: the help was asked for, and has been printed.
    """
    return load_configuration(argv, environ).settings


def load_configuration(
    argv: Sequence[str], environ: Mapping[str, str], command: str = COMMAND
) -> Configuration:
    """The settings and their sources; `command` is whose help is printed where it is asked for.

    Raises:
        SettingsError: a value, a key, a variable or a flag cannot be used.
        SystemExit: the help was asked for, and has been printed.
    """
    scalars = describe_settings()
    flags = read_flags(argv, command)
    path = flags.pop("config", None) or environ.get(CONFIG_VARIABLE)
    file = _read_file(path, scalars) if path else {}
    variables = _read_environment(environ, scalars)
    sources = {
        **{name: f"{VARIABLE_PREFIX}{name.upper()}" for name in variables},
        **dict.fromkeys(file, str(path)),
        **dict.fromkeys(flags, "command line"),
    }
    return Configuration(Settings(**variables | file | flags), sources)


# ---------------------------------------------------------------- the three sources


def _read_environment(
    environ: Mapping[str, str], scalars: dict[str, SettingField]
) -> dict[str, Any]:
    given = {name: text for name, text in environ.items() if name.startswith(VARIABLE_PREFIX)}
    known = [scalar.variable for scalar in scalars.values()]
    others = [CONFIG_VARIABLE, MODELS_VARIABLE, API_KEYS_VARIABLE]
    refuse_unknown(given, [*known, *others], "environment")
    values = {
        name: scalar.parse(given[scalar.variable], scalar.variable)
        for name, scalar in scalars.items()
        if scalar.variable in given
    }
    if (models := given.get(MODELS_VARIABLE)) is not None:
        values["models"] = parse_models(models.split(","), MODELS_VARIABLE)
    if (keys := given.get(API_KEYS_VARIABLE)) is not None:
        values["api_keys"] = parse_keys(keys, API_KEYS_VARIABLE)
    return values


def _read_file(path: str, scalars: dict[str, SettingField]) -> dict[str, Any]:
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


def read_flags(argv: Sequence[str], command: str = COMMAND) -> dict[str, Any]:
    """The settings that the command line sets, and `config` where it names a file.

    Raises:
        SettingsError: a value or a flag cannot be used.
        SystemExit: the help was asked for, and has been printed.
    """
    scalars = describe_settings()
    given, unknown = _make_parser(scalars, command).parse_known_args(argv)
    known = ["--model", "--config", *(scalar.flag for scalar in scalars.values())]
    refuse_unknown((word.partition("=")[0] for word in unknown), known, "command line")
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


class Parser(argparse.ArgumentParser):
    """argparse, but what is wrong is raised."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"command line: {message}")


def _make_parser(scalars: dict[str, SettingField], command: str) -> Parser:
    parser = Parser(
        prog=f"mlxd {command}",
        description="Serve MLX models by OpenAI's API. Flags go before a file, a file before "
        f"variables; a file's keys are the flags' names with underscores, and {MODELS_VARIABLE} "
        f"takes the models of --model with commas between them. {API_KEYS_VARIABLE} takes API keys "
        "with commas: KEY, NAME:KEY or NAME:admin:KEY.",
        allow_abbrev=False,
    )
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
        default = "none" if scalar.default == "" else scalar.default
        parser.add_argument(
            scalar.flag,
            dest=scalar.name,
            metavar="VALUE",
            help=f"{scalar.description} It is {scalar.kind}; default {default} [{scalar.variable}]",
        )
    return parser
