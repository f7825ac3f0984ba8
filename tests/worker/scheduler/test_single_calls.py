"""An answer that may have one call ends after it, also after reasoning."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from protocol.events import ArgumentsDelta, Finished, TextDelta, ToolCallStarted
from protocol.messages import ChatPrompt, Sampling, Step, Submit, ToolUse
from tests.models import staged
from tests.models.staged import Staged
from tests.models.thinking import ADD, CHANNELS, HARMONY, JSON_IN_TAGS, OPENED, TAGS, THOUGHT
from tests.worker.driver import events_of, make_pool, run_loop, tokens_of
from worker.models.pool import ModelPool

MESSAGES = [{"role": "user", "content": "Well?"}]
# Each piece of a staged text is there once, so both calls are in one section.
CALLS = (
    '<tool_call>\n{"name": "add", "arguments": {"a": 1}}, '
    '{"arguments":{"a":22},"name":"add"}\n</tool_call>'
)
MODELS = {
    "plain": Staged(f"{CALLS}", JSON_IN_TAGS, added=TAGS),
    "opens": Staged(f"<think>\n{THOUGHT}\n</think>\n\n{CALLS}", JSON_IN_TAGS, added=TAGS),
    "opened": Staged(f"{THOUGHT}\n</think>\n\n{CALLS}", OPENED, added=TAGS),
    "harmony": Staged(
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>"
        'commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>Over.',
        HARMONY,
        (*CHANNELS, "<|return|>"),
        added=("assistant",),
        end="<|return|>",
        after="assistant",
    ),
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPool]:
    folder = tmp_path_factory.mktemp("calls")
    pool = make_pool(*(staged.make(model, folder / name) for name, model in MODELS.items()))
    yield pool
    for name in MODELS:
        pool[name].config.grammars.close()


def run(
    pool: ModelPool,
    model: str,
    *,
    parallel: bool,
    required: bool = False,
    budget: int | None = None,
) -> list[Step]:
    submit = Submit(
        id=1,
        model=model,
        prompt=ChatPrompt(MESSAGES, tools=[ADD]),
        sampling=Sampling(seed=0, temperature=0.0),
        max_tokens=400,
        calls=ToolUse(["add"], required=required, parallel=parallel),
        thinking_budget=budget,
    )
    return run_loop(pool, [submit])


def calls_of(steps: list[Step]) -> list[dict[str, int]]:
    """The arguments of each call."""
    texts: list[str] = []
    for event in events_of(steps, 1):
        match event:
            case ToolCallStarted():
                texts.append("")
            case ArgumentsDelta(text=text):
                texts[-1] += text
    return [msgspec.json.decode(text) for text in texts]


def end_of(steps: list[Step]) -> Finished:
    end = events_of(steps, 1)[-1]
    assert isinstance(end, Finished)
    return end


def said(steps: list[Step], kind: str) -> str:
    deltas = (event for event in events_of(steps, 1) if isinstance(event, TextDelta))
    return "".join(delta.text for delta in deltas if delta.kind == kind)


@pytest.mark.parametrize("model", sorted(MODELS.keys() - {"harmony"}))
def test_an_answer_without_parallel_calls_ends_after_its_first(pool: ModelPool, model: str) -> None:
    both, one = (run(pool, model, parallel=parallel) for parallel in (True, False))
    assert calls_of(both) == [{"a": 1}, {"a": 22}]
    assert calls_of(one) == [{"a": 1}]
    assert end_of(one).reason == "tool_calls"
    assert len(tokens_of(one, 1)) < len(tokens_of(both, 1))
    for kind in ("reasoning", "content"):
        assert said(one, kind) == said(both, kind)
    assert end_of(one).reasoning_tokens == end_of(both).reasoning_tokens


def test_a_message_of_harmony_after_the_only_call_is_not_said(pool: ModelPool) -> None:
    more, one = (run(pool, "harmony", parallel=parallel) for parallel in (True, False))
    assert calls_of(more) == calls_of(one) == [{"a": 1}]
    assert (said(more, "content"), said(one, "content")) == ("Over.", "")
    assert said(one, "reasoning") == THOUGHT
    assert end_of(one).reason == "tool_calls"


@pytest.mark.parametrize("model", ["plain", "opened"])
@pytest.mark.parametrize("budget", [None, 0, 4])
def test_a_required_call_is_the_only_one(pool: ModelPool, model: str, budget: int | None) -> None:
    steps = run(pool, model, parallel=False, required=True, budget=budget)
    assert calls_of(steps) == [{"a": 1}]
    assert end_of(steps).reason == "tool_calls"
    assert said(steps, "content").strip() == ""
