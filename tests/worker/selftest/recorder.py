"""Keeps what a section of the selftest reports."""

from __future__ import annotations

from protocol.selftest import Figure, is_listed
from worker.selftest.measurement import Section


class Recorder:
    """The figures of one section."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def section(self, name: str, budget_s: float) -> Section:
        """A section that reports to it."""
        return Section(name, budget_s, self.figures.append)

    def only(self, name: str) -> Figure:
        """The one figure of this name, which a report may have."""
        [figure] = [figure for figure in self.figures if figure.name == name]
        assert is_listed(figure)
        return figure
