"""Chats with tools: calls, answers to results, and questions that need no call."""

from __future__ import annotations

from typing import Any

from worker.demo.training.corpus import styles, tools, words
from worker.demo.training.corpus.document import (
    Chat,
    Exchange,
    Message,
    Tool,
    assistant,
    system,
    turns,
    user,
)
from worker.demo.training.corpus.draw import Draw
from worker.demo.training.corpus.structured import compact
from worker.demo.training.corpus.tools import Request

_STATES = words.listed(
    "sunny cloudy rainy windy warm cold open closed ready late empty full quiet busy"
)
_OK_RESULTS = ("ok", "done", "success", "sent", "created")


def call(request: Request) -> dict[str, Any]:
    """The call for `request`, as OpenAI's clients send it back."""
    return {
        "id": "call_1",
        "type": "function",
        "function": {"name": request.name, "arguments": request.arguments},
    }


def _calling(*requests: Request) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": [call(r) for r in requests]}


def _offered(draw: Draw, *requests: Request) -> list[Tool]:
    """The tools of `requests` and up to three others, in random order."""
    known = {r.name: r.tool for r in requests}
    taken = {r.subject for r in requests}
    for _ in range(draw.pick((0, 0, 0, 1, 1, 1, 2, 2, 3))):
        other = tools.request(draw)
        if other.subject not in taken:
            known.setdefault(other.name, other.tool)
    offered = list(known.values())
    draw.rng.shuffle(offered)
    return offered


def _opening(draw: Draw) -> list[Message]:
    return [system(draw.pick(styles.PLAIN_PROMPTS))] if draw.chance(0.35) else []


def _simple_result(draw: Draw) -> tuple[Any, str]:
    value: Any = draw.pick((
        draw.number(0, 99),
        draw.number(100, 9999),
        draw.value(words.label),
        draw.pick(_STATES),
        draw.value(words.code),
    ))  # fmt: skip
    return value, str(value)


def _looked_up(draw: Draw, request: Request) -> tuple[str, str, str]:
    """The tool's result, the assistant's answer, and the part of it that must be right."""
    lead = f"The {request.subject}{request.spoken} is"
    if draw.chance(0.45):
        value, text = _simple_result(draw)
        plain = text if draw.chance(0.5) else compact({"result": value})
        return plain, f"{lead} {text}.", text
    fields: dict[str, Any] = {}
    for _ in range(draw.number(1, 3)):
        key = draw.pick((
            "temperature", "condition", "status", "price", "value", "wind", "time", "name", "total",
            draw.value(words.thing), draw.value(words.invented),
        ))  # fmt: skip
        fields[key] = _simple_result(draw)[0]
    text = ", ".join(f"{key} {value}" for key, value in fields.items())
    echoed = {k: v for k, v in request.arguments.items() if draw.chance(0.4)}
    result = {k: v for k, v in echoed.items() if k not in fields} | fields
    return compact(result), f"{lead}: {text}.", text


def _done(draw: Draw, request: Request) -> tuple[str, str, str]:
    """The same for a tool that changes something."""
    lead = f"Done. The {request.subject}{request.spoken} is set"
    if draw.chance(0.4):
        return compact({"status": draw.pick(_OK_RESULTS)}), f"{lead}.", "Done"
    if draw.chance(0.4):
        return draw.pick(_OK_RESULTS), f"{lead}.", "Done"
    code = draw.value(words.code)
    return (
        compact({"status": draw.pick(_OK_RESULTS), "id": code}),
        f"{lead}. The id is {code}.",
        code,
    )


def _result(draw: Draw, request: Request) -> tuple[str, str, str]:
    if draw.chance(0.06):
        problem = f"{draw.value(words.thing)} not found"
        return compact({"error": problem}), f"The tool failed: {problem}.", problem
    return _looked_up(draw, request) if request.looks_up else _done(draw, request)


def _tool_message(content: str) -> Message:
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


def calling(draw: Draw) -> Chat:
    """A request and its call."""
    request = tools.request(draw)
    messages = [*_opening(draw), user(request.question), _calling(request)]
    return Chat("tool call", messages, tools=_offered(draw, request))


def closing(draw: Draw) -> Chat:
    """A request, its call, the result and the answer."""
    request = tools.request(draw)
    content, answer, key = _result(draw, request)
    messages = [*_opening(draw), user(request.question), _calling(request), _tool_message(content)]
    return Chat("tool result", [*messages, assistant(answer)], key, _offered(draw, request))


def calling_later(draw: Draw, before: list[Exchange]) -> Chat:
    """A request after other turns, or after a call of another tool."""
    request = tools.request(draw)
    messages = [*_opening(draw), *turns(before)]
    offered = [request]
    if draw.chance(0.5):
        earlier = tools.request(draw)
        content, answer, _ = _result(draw, earlier)
        messages += [user(earlier.question), _calling(earlier), _tool_message(content)]
        messages.append(assistant(answer))
        offered.append(earlier)
    messages += [user(request.question), _calling(request)]
    return Chat("tool call", messages, tools=_offered(draw, *offered))


def calling_in_turn(draw: Draw) -> Chat:
    """A request for each offered tool in turn: many calls for one list of tools."""
    by_subject = {r.subject: r for r in (tools.request(draw) for _ in range(draw.number(2, 4)))}
    requests = list({r.name: r for r in by_subject.values()}.values())
    messages = _opening(draw)
    for request in requests[:-1]:
        content, answer, _ = _result(draw, request)
        messages += [user(request.question), _calling(request), _tool_message(content)]
        messages.append(assistant(answer))
    messages += [user(requests[-1].question), _calling(requests[-1])]
    offered = [r.tool for r in requests]
    draw.rng.shuffle(offered)
    return Chat("tool call", messages, tools=offered)


def not_calling(draw: Draw, exchanges: list[Exchange]) -> Chat:
    """Tools are offered, and no question needs them."""
    messages = [*_opening(draw), *turns(exchanges)]
    return Chat("no call", messages, exchanges[-1].key, _offered(draw, tools.request(draw)))
