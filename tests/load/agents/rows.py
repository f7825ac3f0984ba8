"""What is reported of each request: its prompt's tokens, new and computed, and its times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.load.agents.expected import PromptTokens, new_tokens
from tests.load.agents.script import Kind, Shape
from tests.load.agents.sending import Sent

# A request may compute so many tokens more than are new.
ALLOWED_TOKENS = 64


@dataclass(frozen=True)
class Row:
    """One request. What is not known is None; times are seconds."""

    session: str
    turn: int
    kind: Kind
    after: str
    prompt: int
    new: int | None
    computed: int | None
    first_s: float | None
    whole_s: float
    error: str | None

    @property
    def excess(self) -> int | None:
        """The tokens that were computed though they were not new."""
        if self.new is None or self.computed is None or self.error is not None:
            return None
        return self.computed - self.new

    @property
    def has_failed(self) -> bool:
        """Whether it failed though it was not cancelled."""
        return self.error not in (None, "cancelled")

    @property
    def is_excessive(self) -> bool:
        """Whether that is more than is allowed."""
        return self.excess is not None and self.excess > ALLOWED_TOKENS

    def __str__(self) -> str:
        return (
            f"{self.session}, turn {self.turn}, {self.kind}{self.after and f', {self.after}'}: "
            f"prompt {self.prompt}, new {self.new}, computed {self.computed}"
        )


@dataclass(frozen=True)
class Trace:
    """One server's rows, and the seconds of all sessions together, without its starts."""

    rows: list[Row]
    total_s: float


# By family and server, a trace for each round.
Runs = dict[tuple[str, str], list[Trace]]


def make_rows(sent: Sequence[Sent], prompts: PromptTokens | None, shape: Shape) -> list[Row]:
    """A row for each request, in the order of their sending.

    A prompt is known to those that were sent after its first token. One that was cancelled is
    not: what was computed of it shows as less than is new.
    """
    ordered = sorted(sent, key=lambda each: each.timing.due_at)
    tokens = [None if prompts is None else prompts.of(each.request) for each in ordered]
    rows = []
    for one, its in zip(ordered, tokens, strict=True):
        known = [
            other
            for earlier, other in zip(ordered, tokens, strict=True)
            if other is not None
            and earlier.timing.text_at
            and earlier.timing.text_at[0] <= one.timing.due_at
        ]
        rows.append(
            Row(
                session=one.request.session,
                turn=one.request.turn,
                kind=one.request.kind,
                after=event_before(one, shape),
                prompt=one.timing.prompt_tokens if its is None else len(its),
                new=None if its is None else new_tokens(its, known),
                computed=one.computed,
                first_s=one.first_token_s,
                whole_s=one.whole_s,
                error=one.timing.error,
            )
        )
    return rows


def event_before(sent: Sent, shape: Shape) -> str:
    """What happened to the server just before this request."""
    if sent.leg == 1 and sent.request.turn == shape.kill_turn:
        return "after the kill"
    if sent.leg == 2 and sent.request.turn == shape.restart_turn:
        return "after the restart"
    return ""


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each kind of request; turns by tens."""
    names = dict.fromkeys(group_of(row) for row in sorted(rows, key=order_of))
    for name in names:
        yield name, [row for row in rows if group_of(row) == name]


def group_of(row: Row) -> str:
    """The group of a row."""
    if row.kind == "turn" and not row.after:
        if row.turn <= 2:
            return f"turn {row.turn}"
        first = row.turn - (row.turn - 1) % 10
        return f"turns {max(3, first)} to {first + 9}"
    return row.after or row.kind


def order_of(row: Row) -> tuple[bool, int, str]:
    """Turns first."""
    return (row.kind != "turn" or bool(row.after), row.turn, row.kind)


def middle(values: Sequence[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
