"""`mlxd doctor --selftest`: prove that mlxd works on this machine, and write a report."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from protocol.selftest import (
    DEVICE_BUDGETS,
    SERVICE_BUDGETS,
    Budget,
    Figure,
    SectionEnded,
    SectionStarted,
    SelftestMessage,
    SelftestRequest,
)
from service.config.model_settings import ModelSettings, pull_command
from service.config.scalars import SettingsError
from service.config.sources import Parser, load_configuration
from service.host.local_models import inspect_model
from service.selftest.device_run import run_device
from service.selftest.machine import describe_machine
from service.selftest.report import default_path, make_report, names_of_machine, write_report
from service.selftest.resume import check_resume
from service.selftest.system import check_system
from service.selftest.table import Table
from service.server import EXIT_FAILED, EXIT_OK
from service.supervision.preloads import find_preloads
from service.supervision.process import worker_environ

FLAG = "--selftest"
HELP = """\
mlxd doctor --selftest [--quick] [--model SOURCE] [--json FILE]
  Prove that mlxd works on this machine: answers, kernels, memory, speed, a killed worker.
  --quick         in about 20 seconds instead of about 90
  --model SOURCE  a folder or a hub id, measured beside the built-in model
  --json FILE     where the report is written; it names no path, host, user or serial number

"""


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run all sections, print the table, and write the report; exit code 1 if anything failed.

    Raises:
        SettingsError: a flag or a setting cannot be used, or the model is not on this machine.
    """
    options, flags = make_parser().parse_known_args(argv)
    configuration = load_configuration(flags, environ, "doctor")
    settings = configuration.settings
    by_flag = configuration.sources.get("models") == "command line"
    model = given_model(settings.models if by_flag else [])
    preloads = find_preloads(settings.blas, settings.allocator)
    request = SelftestRequest(
        budgets_s=seconds_of(DEVICE_BUDGETS, quick=options.quick),
        source=model.source if model else None,
        revision=model.revision if model else None,
    )
    table = Table(sys.stdout)
    started_at = time.monotonic()
    try:
        for message in run_sections(
            request, worker_environ(environ, preloads), environ, quick=options.quick
        ):
            table.add(message)
    except KeyboardInterrupt:
        sys.stdout.write("\nInterrupted.\n")
    return end(table, options, environ, time.monotonic() - started_at)


def make_parser() -> Parser:
    """The flags that are not settings."""
    parser = Parser(prog="mlxd doctor", add_help=False, allow_abbrev=False)
    parser.add_argument(FLAG, action="store_true", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    return parser


def given_model(models: Sequence[ModelSettings]) -> ModelSettings | None:
    """The model of the command line, if there is one.

    Raises:
        SettingsError: there are several, or its files are not on this machine.
    """
    if not models:
        return None
    if len(models) > 1:
        raise SettingsError("--model: the selftest takes one model")
    [model] = models
    files = inspect_model(model.source, model.revision)
    if files.folder is None:
        raise SettingsError(f"--model: it is not downloaded: `{pull_command(model)}` does it")
    if files.problems:
        raise SettingsError(f"--model: {'; '.join(files.problems)}")
    return model


def seconds_of(budgets: Mapping[str, Budget], *, quick: bool) -> dict[str, float]:
    """The seconds of each section."""
    return {name: each.quick_s if quick else each.whole_s for name, each in budgets.items()}


def run_sections(
    request: SelftestRequest,
    device_environ: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    quick: bool,
) -> Iterator[SelftestMessage]:
    """All messages, in the order of the table."""
    seconds = seconds_of(SERVICE_BUDGETS, quick=quick)
    yield from run_section("machine", seconds, describe_machine)
    yield from run_device(request, device_environ)
    yield from run_section("system", seconds, lambda: check_system(environ))
    yield from run_section("resume", seconds, lambda: check_resume(environ))


def run_section(
    name: str, seconds: Mapping[str, float], figures: Callable[[], Iterator[Figure]]
) -> Iterator[SelftestMessage]:
    """A section of this process."""
    started_at = time.monotonic()
    yield SectionStarted(name, seconds[name])
    yield from figures()
    yield SectionEnded(name, time.monotonic() - started_at)


def end(table: Table, options: Namespace, environ: Mapping[str, str], seconds: float) -> int:
    """Write the report, print the summary, and return the exit code."""
    report = make_report(table.figures, quick=options.quick, names=names_of_machine())
    path = options.json or default_path(environ, Path.home())
    skipped = sum(figure.verdict == "skipped" for figure in report.figures)
    ties = sum(figure.verdict == "near tie" for figure in report.figures)
    sys.stdout.write(
        f"\n{report.failed} failed, {ties} near ties, {skipped} skipped, in {seconds:.0f} s.\n"
    )
    try:
        write_report(report, path)
    except OSError as error:
        sys.stdout.write(f"The report cannot be written to {path}: {error.strerror}\n")
        return EXIT_FAILED
    sys.stdout.write(
        f"Please send the report with an issue of mlxd; it names no path, host or user: {path}\n"
    )
    return EXIT_FAILED if report.failed else EXIT_OK
