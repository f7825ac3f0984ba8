"""The script of a session: what a coding agent sends, turn by turn.

The assistant's turns are written here, whatever the model has answered, so that every server gets
the same prompts. Each step is a list of requests that are sent at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.load.agents import texts
from tests.load.agents.tools import Tool, make_tools

Message = dict[str, Any]
Kind = Literal["turn", "title", "sub-agent", "cancelled", "retry", "edited"]
# What changes in a session's prompts besides what is added to them.
Manner = Literal["stays", "moves", "dated", "reasons"]

MANNERS: tuple[Manner, ...] = ("stays", "moves", "dated", "reasons")
BUDGET_TOKENS = 200_000
# The two turns whose first tokens are compared have results of this length.
COMPARED_TOKENS = 400
SUB_AGENTS = ("a", "b")
SUB_AGENT_TURNS = 2
# A new message of the developer, every so many turns.
TASK_EVERY = 8
# Shorter results are more frequent: a Pareto distribution with this exponent.
EXPONENT = 2.0


@dataclass(frozen=True)
class Shape:
    """How large a session is; tokens of results are approximate."""

    turns: int = 40
    tools: int = 24
    blocks: int = 4
    least_tokens: int = 200
    most_tokens: int = 4000
    answer_tokens: int = 64

    @property
    def branch_turn(self) -> int:
        """After it two sub-agents branch off."""
        return max(2, self.turns // 4)

    @property
    def cancel_turn(self) -> int:
        """Its first try is left in the prefill."""
        return max(3, self.turns * 3 // 8)

    @property
    def date_turn(self) -> int:
        """From it on the instructions have another date, in a session with one."""
        return max(4, self.turns // 2)

    @property
    def edit_turn(self) -> int:
        """Before it an earlier result is edited."""
        return max(5, self.turns * 5 // 8)

    @property
    def kill_turn(self) -> int:
        """Before it the worker is killed."""
        return max(6, self.turns * 3 // 4)

    @property
    def restart_turn(self) -> int:
        """Before it the service is started again."""
        return max(7, self.turns * 7 // 8)


@dataclass(frozen=True)
class Request:
    """One request of a session."""

    session: str
    turn: int
    kind: Kind
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    answer_tokens: int = 64
    # Whether its client leaves in the prefill.
    cancel: bool = False

    @property
    def label(self) -> str:
        """Its place in the trace."""
        return f"{self.session} {self.turn} {self.kind}"


@dataclass(frozen=True)
class Step:
    """Requests that a session sends at once, in one turn."""

    turn: int
    requests: list[Request]


class Session:
    """One session: its name and its manner decide everything in it."""

    def __init__(self, name: str, manner: Manner, shape: Shape) -> None:
        self._name = name
        self._manner = manner
        self._shape = shape
        self._tools = make_tools(shape.tools)
        self._chance = random.Random(f"session {name}")
        self._history: list[Message] = []

    def steps(self) -> Iterator[Step]:
        """All steps, in order."""
        for turn in range(1, self._shape.turns + 1):
            self._advance(turn)
            yield from self._steps_of(turn)

    def _steps_of(self, turn: int) -> Iterator[Step]:
        shape = self._shape
        kind: Kind = "turn"
        if turn == shape.cancel_turn:
            yield Step(turn, [self._request(turn, "cancelled", cancel=True)])
            kind = "retry"
        elif turn == shape.edit_turn:
            kind = "edited"
        requests = [self._request(turn, kind)]
        if turn == 1:
            requests.append(self._title())
        yield Step(turn, requests)
        if turn == shape.branch_turn:
            for number in range(SUB_AGENT_TURNS):
                yield Step(turn, [self._branch(turn, name, number) for name in SUB_AGENTS])

    def _advance(self, turn: int) -> None:
        """Add what is new in this turn."""
        if turn == 1:
            self._history.append({"role": "user", "content": texts.task(self._chance)})
            return
        if turn == self._shape.edit_turn:
            self._edit(turn)
        if (turn - 1) % TASK_EVERY == 0:
            self._history.append({"role": "assistant", "content": texts.said(self._chance)})
            self._history.append({"role": "user", "content": texts.task(self._chance)})
        else:
            self._history += self._exchange(turn, self._chance, self._tokens_of(turn))
        if self._manner == "stays":
            self._history[-1] = with_line(self._history[-1], self._budget(turn))

    def _tokens_of(self, turn: int) -> int:
        """The length of a turn's result."""
        shape = self._shape
        if turn in (2, shape.turns):
            return min(COMPARED_TOKENS, shape.most_tokens)
        if turn == shape.cancel_turn:
            return shape.most_tokens
        drawn = shape.least_tokens * self._chance.paretovariate(EXPONENT)
        return min(round(drawn), shape.most_tokens)

    def _exchange(self, turn: int, chance: random.Random, tokens: int) -> list[Message]:
        """A call of the assistant's, and the tool's result."""
        id = f"call{turn:05}"
        call = {"name": "read_file", "arguments": f'{{"path": "{texts.path(chance)}"}}'}
        assistant: Message = {"role": "assistant", "content": texts.said(chance)}
        if self._manner == "reasons":
            assistant["reasoning_content"] = texts.said(chance)
        assistant["tool_calls"] = [{"id": id, "type": "function", "function": call}]
        result = texts.code(chance, tokens)
        return [assistant, {"role": "tool", "tool_call_id": id, "content": result}]

    def _edit(self, turn: int) -> None:
        """Change the result of a tool a few turns back, as a client that shortens it does."""
        results = [i for i, each in enumerate(self._history) if each["role"] == "tool"]
        place = results[-min(3, len(results))]
        content = f"(shortened in turn {turn})\n{self._history[place]['content'][-400:]}"
        self._history[place] = {**self._history[place], "content": content}

    def _budget(self, turn: int) -> str:
        left = BUDGET_TOKENS - 731 * turn
        return (
            f"\n<budget>{BUDGET_TOKENS - left} of {BUDGET_TOKENS} tokens used; {left} left</budget>"
        )

    def _request(self, turn: int, kind: Kind, *, cancel: bool = False) -> Request:
        history = list(self._history)
        if self._manner == "moves":
            history[-1] = with_line(history[-1], self._budget(turn))
        return self._asked(turn, kind, history, cancel=cancel)

    def _branch(self, turn: int, name: str, number: int) -> Request:
        """A sub-agent's request: the history so far, then a task and turns of its own."""
        chance = random.Random(f"{self._name} sub-agent {name}")
        history = [*self._history, {"role": "assistant", "content": texts.said(chance)}]
        history.append({"role": "user", "content": f"Helper {name}: {texts.task(chance)}"})
        for own in range(number):
            history += self._exchange(1000 + own, chance, self._shape.least_tokens)
        return self._asked(turn, "sub-agent", history, session=f"{self._name}/{name}{number}")

    def _title(self) -> Request:
        asked = "Write a title of at most six words for this session."
        messages = [{"role": "system", "content": asked}, *self._history[:1]]
        return Request(self._name, 1, "title", messages, answer_tokens=16)

    def _asked(
        self,
        turn: int,
        kind: Kind,
        history: Sequence[Message],
        *,
        session: str | None = None,
        cancel: bool = False,
    ) -> Request:
        return Request(
            session=session or self._name,
            turn=turn,
            kind=kind,
            messages=[self._system(turn), *history],
            tools=self._tools,
            answer_tokens=self._shape.answer_tokens,
            cancel=cancel,
        )

    def _system(self, turn: int) -> Message:
        """Blocks that all sessions share, then one with the session's id and perhaps the date."""
        names = ("Agent", "Repository", "Tools", "Tests", "Reports", "Safety")
        blocks = [texts.instructions(name, 8) for name in names[: self._shape.blocks]]
        last = f"Session: {random.Random(self._name).getrandbits(64):016x}"
        if self._manner == "dated":
            last = f"Date: 2026-05-{1 + (turn >= self._shape.date_turn):02}\n{last}"
        parts = [{"type": "text", "text": f"{block}\n\n"} for block in [*blocks, last]]
        return {"role": "system", "content": parts}


def with_line(message: Message, line: str) -> Message:
    """The message with a line at its end."""
    return {**message, "content": message["content"] + line}


def make_sessions(count: int, shape: Shape) -> dict[str, list[Step]]:
    """The steps of each session; the manners take turns."""
    made = {}
    for number in range(count):
        manner = MANNERS[number % len(MANNERS)]
        name = f"{manner}{number // len(MANNERS) or ''}"
        made[name] = list(Session(name, manner, shape).steps())
    return made
