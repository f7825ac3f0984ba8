"""A picture of latency against load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.load.figures import Figures

SIZE_INCHES = (9.0, 4.0)
DOTS_PER_INCH = 120


def draw_latency(curves: Mapping[str, Sequence[Figures]], path: Path) -> None:
    """Median and 95th percentile, to the first token and between tokens, for each server."""
    # Takes a second to import, and only this needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    titles = ("Time to first token", "Time between tokens")
    for axes, title in zip(figure.subplots(1, 2), titles, strict=True):
        for name, levels in curves.items():
            times = [t.first_token if title == titles[0] else t.between_tokens for t in levels]
            places = [level.level for level in levels]
            [line] = axes.plot(places, [t.p50 for t in times], marker="o", label=f"{name} p50")
            style = {"color": line.get_color(), "linestyle": "--", "label": f"{name} p95"}
            axes.plot(places, [t.p95 for t in times], marker=".", **style)
        axes.set(title=title, xlabel="requests at once", ylabel="ms", xscale="log", yscale="log")
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=DOTS_PER_INCH)
