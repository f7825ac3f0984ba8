"""`mlxd models`: which models are configured, which are on disk, which are loaded, how large."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from protocol.units import format_bytes
from service.config.model_settings import ModelSettings, model_id
from service.config.settings import Settings
from service.config.sources import load_configuration
from service.host.diagnosis import ask_models
from service.host.local_models import ModelFiles, look_at
from service.server import EXIT_OK

COMMAND = "models"
Row = tuple[str, str, str, str]
HEAD: Row = ("model", "from", "on disk", "state")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """List them; the settings are those of `mlxd serve`. The exit code.

    Raises:
        SettingsError: a setting cannot be used.
    """
    settings = load_configuration(argv, environ, COMMAND).settings
    told = ask_models(settings)
    rows = [HEAD, *rows_of(settings, told)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    if told is None:
        sys.stderr.write(f"mlxd: nobody answers at {settings.host}:{settings.port}\n")
    return EXIT_OK


def rows_of(settings: Settings, told: Mapping[str, str] | None) -> Iterator[Row]:
    """One a configured model; `told` is what a running service says of each."""
    for model in settings.models:
        state = "unknown" if told is None else told.get(model_id(model), "not served")
        yield row(model, look_at(model.source), state)


def row(model: ModelSettings, files: ModelFiles, state: str) -> Row:
    """The cells of one model."""
    if files.folder is None:
        size = f"no; `mlxd pull {model.source}`"
    else:
        size = files.wrong[0] if files.wrong else format_bytes(files.weight_bytes)
    return model_id(model), model.source or "built in", size, state
