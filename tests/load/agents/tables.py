"""The trace's tables and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from tests.load.agents.rows import Row, Runs, Trace, groups, middle

MS_PER_S = 1000.0
CAPTION = (
    "medians, most in brackets; new: tokens after what the prompt shares with an earlier one;\n"
    "excess: computed, though not new; first token and whole: ms"
)
SIZE_INCHES = (12.0, 4.0)
DOTS_PER_INCH = 120


def turns_table(title: str, rows: Sequence[Row]) -> Table:
    """One row for each kind of request."""
    table = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD)
    columns = ("requests", "prompt", "new", "computed", "excess", "first token", "whole", "failed")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, of_group in groups(rows):
        table.add_row(
            name,
            str(len(of_group)),
            tell([row.prompt for row in of_group]),
            tell([row.new for row in of_group]),
            tell([row.computed for row in of_group]),
            tell([row.excess for row in of_group]),
            tell([ms(row.first_s) for row in of_group]),
            tell([ms(row.whole_s) for row in of_group]),
            str(sum(row.has_failed for row in of_group)),
        )
    return table


def summary_table(runs: Runs) -> Table:
    """A row for each family and server: its totals, of several rounds the median of the times."""
    table = Table(title="totals", box=box.SIMPLE_HEAD)
    for name in ("family", "server"):
        table.add_column(name)
    columns = ("time, s", "first's / its", "new", "computed", "most excess", "above 64")
    for name in (*columns, "first, 2", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    for (family, server), traces in runs.items():
        rows = [row for trace in traces for row in trace.rows]
        excess = [row.excess for row in rows if row.excess is not None]
        second, last = (first_token_of(rows, turn) for turn in (2, max(r.turn for r in rows)))
        beside = next(rounds for (other, _), rounds in runs.items() if other == family)
        table.add_row(
            family,
            server,
            f"{middle([trace.total_s for trace in traces]):.1f}",
            tell_ratios(beside, traces),
            f"{sum(row.new or 0 for row in rows):,}",
            f"{sum(row.computed or 0 for row in rows):,}",
            f"{max(excess):,}" if excess else "-",
            str(sum(row.is_excessive for row in rows)),
            tell([ms(second)]),
            tell([ms(last)]),
        )
    return table


def tell_ratios(ours: Sequence[Trace], others: Sequence[Trace]) -> str:
    """Our whole time divided by another server's, round by round: the median, least and most."""
    if ours is others:
        return "-"
    ratios = [a.total_s / b.total_s for a, b in zip(ours, others, strict=False)]
    middle_one = f"{middle(ratios):.2f}"
    return f"{middle_one} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios[1:] else middle_one


def first_token_of(rows: Sequence[Row], turn: int) -> float | None:
    """Median seconds to the first token in a turn of all sessions."""
    return middle([row.first_s for row in rows if row.kind == "turn" and row.turn == turn])


def ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * MS_PER_S


def tell(values: Sequence[float | None]) -> str:
    """The median and the most of what is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    least = f"{middle(known):,.0f}"
    return least if len(known) == 1 else f"{least} ({max(known):,.0f})"


def draw(runs: Runs, path: Path) -> None:
    """First token, computed tokens and whole time by turn; a line for each family and server."""
    # Takes a second to import, and only this needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    titles = ("Time to first token, ms", "Prompt tokens computed", "Whole request, ms")
    for axes, title in zip(figure.subplots(1, 3), titles, strict=True):
        for (family, server), traces in runs.items():
            rows = [row for trace in traces for row in trace.rows]
            turns = sorted({row.turn for row in rows})
            of_turn = [[r for r in rows if r.turn == turn and r.kind != "title"] for turn in turns]
            values = {
                titles[0]: [middle([ms(r.first_s) for r in each]) for each in of_turn],
                titles[1]: [middle([r.computed for r in each]) for each in of_turn],
                titles[2]: [middle([ms(r.whole_s) for r in each]) for each in of_turn],
            }[title]
            places = [turn for turn, value in zip(turns, values, strict=True) if value is not None]
            known = [value for value in values if value is not None]
            axes.plot(places, known, marker=".", label=f"{family}, {server}")
        axes.set(title=title, xlabel="turn", yscale="log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=DOTS_PER_INCH)
