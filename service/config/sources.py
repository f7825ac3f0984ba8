"""Reads the settings from their four sources, and keeps the source of each.

In ascending order of precedence: the defaults of `Settings`, the environment (`MLXD_PORT`),
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
from service.config.scalars import (
    VARIABLE_PREFIX,
    SettingField,
    SettingsError,
    refuse_control_characters,
    refuse_unknown,
)
from service.config.settings import Settings, describe_settings
from service.errors import excerpt
from service.schema.parameter_table import SOFTENABLE

CONFIG_VARIABLE = "MLXD_CONFIG"
MODELS_VARIABLE = "MLXD_MODELS"
COMMAND = "serve"


class Configuration(NamedTuple):
    """The settings, and in `sources` by name the source of each that is not the default."""

    settings: Settings
    sources: dict[str, str]


def load_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings. `argv` are the arguments after the command's name.

    Raises:
        SettingsError: a value, a key, a variable or a flag is invalid.
        SystemExit: `--help` was given; the help has been printed.
    """
    return load_configuration(argv, environ).settings


def load_configuration(
    argv: Sequence[str], environ: Mapping[str, str], command: str = COMMAND
) -> Configuration:
    """The settings and their sources. `command` is the command's name in the help.

    Raises:
        SettingsError: a value, a key, a variable or a flag is invalid.
        SystemExit: `--help` was given; the help has been printed.
    """
    fields = describe_settings()
    flags = read_flags(argv, command)
    path = flags.pop("config", None) or environ.get(CONFIG_VARIABLE)
    file = _read_file(path, fields) if path else {}
    variables = _read_environment(environ, fields)
    sources = {
        **{name: f"{VARIABLE_PREFIX}{name.upper()}" for name in variables},
        **dict.fromkeys(file, str(path)),
        **dict.fromkeys(flags, "command line"),
    }
    return Configuration(Settings(**variables | file | flags), sources)


def softened_parameters(settings: Settings) -> frozenset[str]:
    """The parameters of the setting `soften`.

    Raises:
        SettingsError: one of them cannot be softened.
    """
    names = frozenset(word.strip() for word in settings.soften.split(",") if word.strip())
    for name in sorted(names.difference(SOFTENABLE)):
        raise SettingsError(f"soften: {excerpt(name, 100)} is not one of {', '.join(SOFTENABLE)}")
    return names


# ---------------------------------------------------------------- the three sources


def _read_environment(
    environ: Mapping[str, str], fields: Mapping[str, SettingField]
) -> dict[str, Any]:
    given = {name: text for name, text in environ.items() if name.startswith(VARIABLE_PREFIX)}
    known = [field.variable for field in fields.values()]
    others = [CONFIG_VARIABLE, MODELS_VARIABLE, API_KEYS_VARIABLE]
    refuse_unknown(given, [*known, *others], "environment")
    values = {
        name: field.parse(given[field.variable], field.variable)
        for name, field in fields.items()
        if field.variable in given
    }
    if (models := given.get(MODELS_VARIABLE)) is not None:
        values["models"] = parse_models(models.split(","), MODELS_VARIABLE)
    if (keys := given.get(API_KEYS_VARIABLE)) is not None:
        values["api_keys"] = parse_keys(keys, API_KEYS_VARIABLE)
    return values


def _read_file(path: str, fields: Mapping[str, SettingField]) -> dict[str, Any]:
    refuse_control_characters(path, "config")
    try:
        table = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from None
    refuse_unknown(table, ["models", *fields], path)
    values = {
        name: field.check(table[name], f"{path}: {name}")
        for name, field in fields.items()
        if name in table
    }
    if "models" in table:
        values["models"] = read_models(table["models"], f"{path}: models")
    return values


def read_flags(argv: Sequence[str], command: str = COMMAND) -> dict[str, Any]:
    """The settings of the command line, and its `config` file if one is given.

    Raises:
        SettingsError: a value or a flag is invalid.
        SystemExit: `--help` was given; the help has been printed.
    """
    fields = describe_settings()
    given, unknown = _make_parser(fields, command).parse_known_args(argv)
    known = ["--model", "--config", *(field.flag for field in fields.values())]
    refuse_unknown((word.partition("=")[0] for word in unknown), known, "command line")
    values = {
        name: field.parse(text, field.flag)
        for name, field in fields.items()
        if (text := getattr(given, name)) is not None
    }
    if given.models is not None:
        values["models"] = parse_models(given.models, "--model")
    if given.config is not None:
        values["config"] = given.config
    return values


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `SettingsError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"command line: {message}")


def _make_parser(fields: Mapping[str, SettingField], command: str) -> Parser:
    parser = Parser(
        prog=f"mlxd {command}",
        description="Serve MLX models with OpenAI's API. Flags override the file, and the file "
        "overrides environment variables. The keys of the file are the names of the flags with "
        f"underscores. {MODELS_VARIABLE} is a comma-separated list of models, each as in --model. "
        f"{API_KEYS_VARIABLE} is a comma-separated list of API keys: KEY, NAME:KEY or "
        "NAME:admin:KEY.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="[ID=]SOURCE",
        help="a folder or a hub id, and the id to serve it by; may be repeated; the first model is "
        f"also served as `{RESERVED_ID}`; default: the built-in {DEMO_ID}",
    )
    parser.add_argument("--config", metavar="PATH", help=f"a TOML file [{CONFIG_VARIABLE}]")
    for field in fields.values():
        default = "none" if field.default == "" else field.default
        parser.add_argument(
            field.flag,
            dest=field.name,
            metavar="VALUE",
            help=f"{field.description} Value: {field.kind}; default {default} [{field.variable}]",
        )
    return parser
