"""Figures on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from tests.load.figures import Figures

MIB = 2**20
WIDTH = 130
COLUMNS = (
    "prompt",
    "tok/s",
    "req/s",
    "first",
    "between",
    "whole",
    "failed",
    "client",
    "CPU",
    "MiB",
)
CAPTION = (
    "first token, between events, whole answer: ms, p50/p95/p99; prompt: tokens;\n"
    "client: of a core; CPU: seconds for 1,000 tokens; MiB: most held; server + its children"
)


def wide_console() -> Console:
    """A console for the terminal; without one, as wide as the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def figures_table(unit: str, levels: Sequence[Figures], title: str | None = None) -> Table:
    """All figures, one row a level."""
    table = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD)
    for name in (unit, *COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        table.add_row(
            f"{level.level:g}",
            f"{level.prompt_tokens:.0f}",
            f"{level.tokens_per_s:,.0f}",
            f"{level.requests_per_s:.1f}",
            str(level.first_token),
            str(level.between_tokens),
            str(level.whole),
            str(sum(level.errors.values())),
            f"{level.client_cpu:.0%}",
            *usage_of(level),
        )
    return table


def usage_of(level: Figures) -> tuple[str, str]:
    """The usage of the local processes."""
    if level.usage is None:
        return "", ""
    cpu = "+".join(f"{s:.3f}" for s in level.usage.cpu_s.values())
    peak = "+".join(f"{peak / MIB:.0f}" for peak in level.usage.peak_bytes.values())
    return cpu, peak


def remarks(levels: Sequence[Figures]) -> Iterator[str]:
    """Remarks that qualify the table."""
    busy = [f"{level.level:g}" for level in levels if level.client_busy]
    if busy:
        yield f"The client was the bottleneck at {', '.join(busy)}: it used a whole core."
    for level in levels:
        if level.errors:
            kinds = ", ".join(f"{count} {kind}" for kind, count in level.errors.items())
            yield f"At {level.level:g} failed: {kinds}."


def ratios_table(title: str, ratios: Mapping[float, Mapping[str, Sequence[float]]]) -> Table:
    """Medians of paired ratios with the least and the most; a row for each level."""
    names = list(next(iter(ratios.values())))
    table = Table("at once", *names, title=title, caption="median (least to most)")
    for level, of_level in ratios.items():
        table.add_row(f"{level:g}", *(spread(of_level[name]) for name in names))
    return table


def spread(values: Sequence[float]) -> str:
    """The median, the least and the most."""
    if not values:
        return "-"
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
