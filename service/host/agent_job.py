"""The launchd job of an installed service: the current settings, with absolute paths only."""

from __future__ import annotations

import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protocol.model_location import Folder, location_of
from service.config.api_keys import API_KEYS_VARIABLE
from service.config.model_settings import ModelSettings, parse_models
from service.config.scalars import VARIABLE_PREFIX, SettingsError, refuse_control_characters
from service.config.secrets import has_secret
from service.config.settings import describe_settings
from service.config.sources import (
    CONFIG_VARIABLE,
    MODELS_VARIABLE,
    load_configuration,
    read_flags,
)
from service.host.guarded_folders import explain_guarded, used_paths
from service.host.hub import refuse_open_hub_for
from service.host.launchd import Job
from service.server import HANG_TIMEOUT_S
from service.supervision.process import CODE_FOLDER

LOG_FILE = "mlxd.log"
# Time between the service's own forced exit and launchd's SIGKILL.
EXIT_MARGIN_S = 5.0
KEPT_PREFIXES = (VARIABLE_PREFIX, "OTEL_", "HF_")
KEPT_NAMES = ("PATH", "LANG", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
# A variable with one of these in its name may contain a secret.
SECRET_PARTS = ("TOKEN", "HEADERS", "PASSWORD", "SECRET", "API_KEY", "CREDENTIAL", "AUTH")

# The folder of one version of a package of Homebrew's.
HOMEBREW_VERSION = re.compile(r"/Cellar/(?P<name>[^/]+)/[^/]+(?P<rest>/|$)")

Warn = Callable[[str], None]


def make_job(flags: Sequence[str], environ: Mapping[str, str], home: Path, warn: Warn) -> Job:
    """The job that runs `mlxd serve` with these flags and this environment.

    `warn` is called with a message for each variable that is left out as a possible secret.

    Raises:
        SettingsError: a setting cannot be used, is a secret, has a relative path in a file, or
            names a folder that macOS guards.
    """
    settings, sources = load_configuration(flags, environ, "agent install")
    if API_KEYS_VARIABLE in environ:
        raise SettingsError(
            f"{API_KEYS_VARIABLE}: keys are not written into a property list: make them with "
            "`mlxd keys add`, or unset the variable"
        )
    refuse_control_characters(str(home), "HOME")
    refuse_open_hub_for(settings.models, environ)
    flag_values = read_flags(flags)
    config = flag_values.get("config") or environ.get(CONFIG_VARIABLE)
    if config is not None:
        refuse_relative_paths(Path(config).expanduser())
    for sentence in explain_guarded(used_paths(settings, config, environ), home):
        raise SettingsError(sentence)
    log_folder = home / "Library" / "Logs" / "mlxd"
    if "log_file" not in sources:
        flag_values["log_file"] = str(log_folder / LOG_FILE)
    # A link is not resolved, because it belongs to the virtual environment.
    python = kept_by_upgrades(os.path.abspath(sys.executable))  # noqa: PTH100
    return Job(
        arguments=[python, "-P", "-m", "service", "serve", *to_flags(flag_values)],
        environment={
            "HOME": str(home),
            "PYTHONPATH": kept_by_upgrades(CODE_FOLDER),
            "PYTHONUNBUFFERED": "1",
            **select_environment(environ, warn),
        },
        folder=home,
        log_folder=log_folder,
        exit_timeout_s=math.ceil(settings.drain_s + HANG_TIMEOUT_S + EXIT_MARGIN_S),
    )


def kept_by_upgrades(path: str) -> str:
    """The path by Homebrew's link to the installed version, whose own folder an upgrade removes."""
    return HOMEBREW_VERSION.sub(r"/opt/\g<name>\g<rest>", path)


def to_flags(values: Mapping[str, Any]) -> list[str]:
    """The command line for these settings, with absolute paths."""
    fields = describe_settings()
    words = []
    for name, value in values.items():
        if name == "models":
            flags = [to_model_flag(model) for model in value]
            refuse_secrets(flags, "--model")
            words += [f"--model={flag}" for flag in flags]
        elif name == "config":
            words.append(f"--config={absolute(value)}")
        else:
            refuse_secrets([str(value)], fields[name].flag)
            words.append(f"{fields[name].flag}={fields[name].absolute(value)}")
    return words


def refuse_secrets(values: Sequence[str], origin: str) -> None:
    """Refuse a flag with a secret: the property list, and so the secret, can be read by others.

    Raises:
        SettingsError: a value has a password or a key in a URL.
    """
    if any(map(has_secret, values)):
        raise SettingsError(f"{origin}: a password in a URL is not written into a property list")


def select_environment(environ: Mapping[str, str], warn: Warn) -> dict[str, str]:
    """The variables that the service needs, with absolute paths."""
    fields = {field.variable: field for field in describe_settings().values()}
    kept = {}
    for name, value in environ.items():
        if not (name in KEPT_NAMES or name.startswith(KEPT_PREFIXES)):
            continue
        refuse_control_characters(value, name)
        is_named_secret = any(part in name for part in SECRET_PARTS) and name not in fields
        if is_named_secret or has_secret(value):
            warn(f"{name} may contain a secret, and is left out")
        elif name == MODELS_VARIABLE:
            kept[name] = ",".join(map(to_model_flag, parse_models(value.split(","), name)))
        elif name == CONFIG_VARIABLE:
            kept[name] = absolute(value)
        else:
            kept[name] = str(fields[name].absolute(value)) if name in fields else value
    return kept


def to_model_flag(model: ModelSettings) -> str:
    """The value of `--model` for a model whose folder is absolute already."""
    return f"{model.id}={model.source}" if model.id else str(model.source)


def refuse_relative_paths(path: Path) -> None:
    """Refuse a configuration file with relative paths.

    launchd starts the service in another folder, where they would name other files.

    Raises:
        SettingsError: the file has a path that is not absolute.
    """
    table = tomllib.loads(path.read_text("utf-8"))
    settings = [
        table[name]
        for name, field in describe_settings().items()
        if field.is_path and name in table and field.absolute(table[name]) != table[name]
    ]
    sources = [model.get("source") for model in table.get("models", [])]
    relative = [text for text in settings if not text.startswith("~")]
    relative += [source for source in sources if is_relative_folder(source)]
    if relative:
        raise SettingsError(f"{path}: {relative[0]} is relative: begin it with / or ~")


def is_relative_folder(source: str | None) -> bool:
    """Whether a model's source is a folder by a relative path."""
    location = location_of(source)
    return isinstance(location, Folder) and not location.path.is_absolute()


def absolute(path: str) -> str:
    """The absolute path, with `~` expanded."""
    return str(Path(path).expanduser().absolute())
