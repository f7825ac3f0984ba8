"""What an installed service is started with: the settings of now, with nothing left relative."""

from __future__ import annotations

import math
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.config.api_keys import API_KEYS_VARIABLE
from service.config.model_settings import ModelSettings, parse_models
from service.config.scalars import VARIABLE_PREFIX, SettingsError
from service.config.settings import describe_settings
from service.config.sources import (
    CONFIG_VARIABLE,
    MODELS_VARIABLE,
    load_configuration,
    read_flags,
)
from service.host.launchd import Job
from service.server import HANG_TIMEOUT_S
from service.supervision.process import CODE_FOLDER

LOG_FILE = "mlxd.log"
# Between the moment at which a stop that hangs ends itself and launchd's own end to it.
EXIT_MARGIN_S = 5.0
KEPT_PREFIXES = (VARIABLE_PREFIX, "OTEL_", "HF_")
KEPT_NAMES = ("PATH", "LANG", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
SECRET_PARTS = ("TOKEN", "HEADERS", "PASSWORD", "SECRET")

Told = Callable[[str], None]


def describe_job(
    flags: Sequence[str], environ: Mapping[str, str], home: Path, complain: Told
) -> Job:
    """The service as `mlxd serve` with these flags would run here and now.

    Raises:
        SettingsError: a setting cannot be used, or only in this folder, or is a secret.
    """
    settings, sources = load_configuration(flags, environ, "agent install")
    if API_KEYS_VARIABLE in environ:
        raise SettingsError(
            f"{API_KEYS_VARIABLE}: keys are not written into a property list: make them with "
            "`mlxd keys add`, or leave the variable out"
        )
    given = read_flags(flags)
    config = given.get("config") or environ.get(CONFIG_VARIABLE)
    if config is not None:
        refuse_relative(Path(config).expanduser())
    log_folder = home / "Library" / "Logs" / "mlxd"
    if "log_file" not in sources:
        given["log_file"] = str(log_folder / LOG_FILE)
    python = os.path.abspath(sys.executable)  # noqa: PTH100 (a link stays one: it is the environment)
    return Job(
        arguments=[python, "-P", "-m", "service", "serve", *write_flags(given)],
        environment={
            "HOME": str(home),
            "PYTHONPATH": CODE_FOLDER,
            "PYTHONUNBUFFERED": "1",
            **keep_environment(environ, complain),
        },
        folder=home,
        log_folder=log_folder,
        exit_timeout_s=math.ceil(settings.drain_s + HANG_TIMEOUT_S + EXIT_MARGIN_S),
    )


def write_flags(given: Mapping[str, Any]) -> list[str]:
    """Settings as flags that mean the same in any folder."""
    scalars = describe_settings()
    words = []
    for name, value in given.items():
        if name == "models":
            words += [f"--model={write_model(model)}" for model in value]
        elif name == "config":
            words.append(f"--config={absolute(value)}")
        else:
            words.append(f"{scalars[name].flag}={scalars[name].absolute(value)}")
    return words


def keep_environment(environ: Mapping[str, str], complain: Told) -> dict[str, str]:
    """What of the environment the service needs, as it means the same in any folder."""
    paths = {scalar.variable: scalar for scalar in describe_settings().values()}
    kept = {}
    for name, value in environ.items():
        if not (name in KEPT_NAMES or name.startswith(KEPT_PREFIXES)):
            continue
        if any(part in name for part in SECRET_PARTS) and name not in paths:
            complain(f"{name} may hold a secret, and is left out")
        elif name == MODELS_VARIABLE:
            kept[name] = ",".join(map(write_model, parse_models(value.split(","), name)))
        elif name == CONFIG_VARIABLE:
            kept[name] = absolute(value)
        else:
            kept[name] = str(paths[name].absolute(value)) if name in paths else value
    return kept


def write_model(model: ModelSettings) -> str:
    """A model as a flag names it; its folder is absolute already."""
    return f"{model.id}={model.source}" if model.id else str(model.source)


def refuse_relative(path: Path) -> None:
    """Refuse a file whose folders would be sought in another place by an installed service.

    Raises:
        SettingsError: it names one that is not absolute.
    """
    table = tomllib.loads(path.read_text("utf-8"))
    named = [
        table[name]
        for name, scalar in describe_settings().items()
        if scalar.is_path and name in table and scalar.absolute(table[name]) != table[name]
    ]
    sources = [model.get("source") or "" for model in table.get("models", [])]
    named += [text for text in sources if not text.startswith(("/", "~")) and Path(text).exists()]
    relative = [text for text in named if not text.startswith("~")]
    if relative:
        raise SettingsError(f"{path}: {relative[0]} is relative: write it from / or ~ on")


def absolute(path: str) -> str:
    """A path from the root on."""
    return str(Path(path).expanduser().absolute())
