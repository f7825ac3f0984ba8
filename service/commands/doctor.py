"""`mlxd doctor`: what would be served here and now, by what, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from service.commands.serve import to_configure
from service.config.scalars import SettingsError
from service.config.sources import Configuration, load_configuration
from service.host.diagnosis import (
    Finding,
    check_access,
    check_device,
    check_models,
    check_port,
    check_settings,
    check_versions,
    look_at_models,
)
from service.server import EXIT_FAILED, EXIT_OK

OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
NO_WORDS = ("", "0", "false", "no", "off")
WRONG, FINE = "!!", "ok"


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Look at everything that `mlxd serve` with these flags would need; 1 if something is wrong."""
    report = Report()
    report.add("versions", check_versions())
    try:
        configuration = load_configuration(argv, environ, "doctor")
    except SettingsError as error:
        report.add("settings", [Finding("settings", str(error), wrong=True)])
    else:
        examine(configuration, environ, report)
    return report.end()


def examine(configuration: Configuration, environ: Mapping[str, str], report: Report) -> None:
    """All that depends on the settings."""
    settings = configuration.settings
    report.add("settings", check_settings(configuration))
    report.add("access", [*check_access(settings), *check_port(settings)])
    models = look_at_models(settings)
    offline = environ.get(OFFLINE_VARIABLE, "").lower() not in NO_WORDS
    report.add("models", check_models(settings, models, offline=offline))
    largest_bytes = max(model.weight_bytes for model in models.values())
    nothing = msgspec.structs.replace(to_configure(settings), models=[])
    report.add("device", check_device(settings, nothing, environ, largest_bytes))


class Report:
    """Lines as they are found, and what was wrong once more at the end."""

    def __init__(self) -> None:
        self._wrong: list[Finding] = []

    def add(self, title: str, findings: Iterable[Finding]) -> None:
        """One part."""
        sys.stdout.write(f"{title}\n")
        for finding in findings:
            mark = WRONG if finding.wrong else FINE
            sys.stdout.write(f"  {mark}  {finding.name:16} {finding.told}\n")
            if finding.wrong:
                self._wrong.append(finding)
        sys.stdout.flush()

    def end(self) -> int:
        """The last lines, and the exit code."""
        if not self._wrong:
            sys.stdout.write("\nNothing is wrong.\n")
            return EXIT_OK
        sys.stdout.write("\nWrong:\n")
        for finding in self._wrong:
            sys.stdout.write(f"  {finding.name}: {finding.told}\n")
        return EXIT_FAILED
