"""`mlxd doctor`: show what `mlxd serve` would use, and report problems with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from service.commands import selftest
from service.commands.serve import to_configure
from service.config.scalars import SettingsError
from service.config.secrets import conceal_secrets
from service.config.sources import (
    CONFIG_VARIABLE,
    Configuration,
    load_configuration,
    read_flags,
)
from service.host.diagnosis import (
    Finding,
    check_access,
    check_agent,
    check_device,
    check_hub,
    check_models,
    check_port,
    check_settings,
    check_versions,
    inspect_models,
)
from service.host.hub import is_offline
from service.server import EXIT_FAILED, EXIT_OK

HELP_FLAGS = ("-h", "--help")
PROBLEM_MARK, OK_MARK = "!!", "ok"


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Check everything that `mlxd serve` with these flags needs; exit code 1 on a problem.

    With `--selftest` run the selftest instead.
    """
    if selftest.FLAG in argv and not set(HELP_FLAGS) & set(argv):
        return selftest.run(argv, environ)
    if set(HELP_FLAGS) & set(argv):
        sys.stdout.write(selftest.HELP)
        load_configuration(HELP_FLAGS, environ, "doctor")
    report = Report()
    report.add("versions", check_versions())
    try:
        configuration = load_configuration(argv, environ, "doctor")
    except SettingsError as error:
        report.add("settings", [Finding("settings", str(error), is_problem=True)])
    else:
        config = read_flags(argv, "doctor").get("config") or environ.get(CONFIG_VARIABLE)
        check(configuration, config, environ, report)
    return report.end()


def check(
    configuration: Configuration, config: str | None, environ: Mapping[str, str], report: Report
) -> None:
    """Run the checks that depend on the settings; `config` is their file."""
    settings = configuration.settings
    report.add("settings", check_settings(configuration))
    report.add("access", [*check_access(settings), *check_port(settings)])
    files = inspect_models(settings)
    report.add("models", check_models(settings, files, offline=is_offline(environ)))
    report.add("hub", check_hub(settings, environ))
    report.add("agent", check_agent(settings, config, environ, Path.home()))
    largest_bytes = max(model.weight_bytes for model in files.values())
    without_models = msgspec.structs.replace(to_configure(settings), models=[])
    report.add("device", check_device(settings, without_models, environ, largest_bytes))


class Report:
    """Prints the findings as they come, and repeats the problems at the end."""

    def __init__(self) -> None:
        self._problems: list[Finding] = []

    def add(self, title: str, findings: Iterable[Finding]) -> None:
        """Print one section."""
        sys.stdout.write(f"{title}\n")
        for found in findings:
            finding = found._replace(text=conceal_secrets(found.text))
            mark = PROBLEM_MARK if finding.is_problem else OK_MARK
            sys.stdout.write(f"  {mark}  {finding.name:16} {finding.text}\n")
            if finding.is_problem:
                self._problems.append(finding)
        sys.stdout.flush()

    def end(self) -> int:
        """Print the summary, and return the exit code."""
        if not self._problems:
            sys.stdout.write("\nNo problems found.\n")
            return EXIT_OK
        sys.stdout.write("\nProblems:\n")
        for finding in self._problems:
            sys.stdout.write(f"  {finding.name}: {finding.text}\n")
        return EXIT_FAILED
