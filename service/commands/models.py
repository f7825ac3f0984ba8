"""`mlxd models`: list the configured models, their size on disk and whether they are loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from protocol.units import format_bytes
from service.config.model_settings import ModelSettings, model_id, pull_command
from service.config.secrets import conceal_secrets
from service.config.settings import Settings
from service.config.sources import load_configuration
from service.host.diagnosis import ModelStatesUnknown, read_model_states
from service.host.local_models import ModelFiles, inspect_model
from service.server import EXIT_OK

COMMAND = "models"
Row = tuple[str, str, str, str]
HEADER: Row = ("model", "from", "on disk", "state")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the table of models, and return the exit code. Its flags are those of `mlxd serve`.

    Raises:
        SettingsError: a setting cannot be used.
    """
    settings = load_configuration(argv, environ, COMMAND).settings
    states, unknown = None, ""
    try:
        states = read_model_states(settings)
    except ModelStatesUnknown as error:
        unknown = str(error)
    rows = [HEADER, *rows_of(settings, states)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    if unknown:
        sys.stderr.write(f"mlxd: {unknown}\n")
    return EXIT_OK


def rows_of(settings: Settings, states: Mapping[str, str] | None) -> Iterator[Row]:
    """One row per configured model. `states` are those of a running service, None if unknown."""
    for model in settings.models:
        state = "unknown" if states is None else states.get(model_id(model), "not served")
        yield row(model, inspect_model(model.source, model.revision), state)


def row(model: ModelSettings, files: ModelFiles, state: str) -> Row:
    """The row of one model."""
    if files.folder is None:
        size = conceal_secrets(f"no; `{pull_command(model)}`")
    else:
        size = files.problems[0] if files.problems else format_bytes(files.weight_bytes)
    return model_id(model), conceal_secrets(model.source or "built in"), size, state
