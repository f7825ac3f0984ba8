"""An answer's reasoning ends at its budget, and the model goes on with its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.events import ArgumentsDelta, Finished, Started, TextDelta, ToolCallStarted
from protocol.grammars import JsonSchema, TextChoice
from protocol.messages import ChatPrompt, Sampling, Sibling, Step, Submit, TextPrompt, ToolUse
from tests.models import staged
from tests.models.thinking import ADD, CONTENT, MODELS, THOUGHT
from tests.worker.driver import events_of, make_pool, run_loop, text_of, tokens_of
from worker.models.pool import ModelPool

Pools = Mapping[str, ModelPool]
GREEDY = Sampling(seed=0, temperature=0.0)
MESSAGES = [{"role": "user", "content": "Well?"}]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    """Each model in a pool of its own: a step looks at all models of its pool."""
    folder: Path = tmp_path_factory.mktemp("thinking")
    pools = {name: make_pool(staged.make(model, folder / name)) for name, model in MODELS.items()}
    yield pools
    for name, pool in pools.items():
        pool[name].config.grammars.close()


def run(pools: Pools, submits: Sequence[Submit]) -> list[Step]:
    """Every step of requests to one model."""
    [model] = {submit.model for submit in submits}
    return run_loop(pools[model], submits)


def ask(model: str, budget: int | None, **fields: Any) -> Submit:
    return Submit(
        **{
            "id": 1,
            "model": model,
            "prompt": ChatPrompt(MESSAGES),
            "sampling": GREEDY,
            "max_tokens": 400,
            "thinking_budget": budget,
            **fields,
        }
    )


def split(steps: list[Step], id: int = 1) -> tuple[str, str]:
    """The reasoning and the content of an answer."""
    deltas = [event for event in events_of(steps, id) if isinstance(event, TextDelta)]
    reasoning, content = (
        "".join(delta.text for delta in deltas if delta.kind == kind)
        for kind in ("reasoning", "content")
    )
    return reasoning, content


def finished(steps: list[Step], id: int = 1) -> Finished:
    end = events_of(steps, id)[-1]
    assert isinstance(end, Finished)
    return end


def thought_tokens(pools: Pools, model: str) -> int:
    """How many tokens the whole reasoning has, markers included."""
    return finished(run(pools, [ask(model, None)])).reasoning_tokens


@pytest.mark.parametrize("model", ["opens", "opened"])
def test_reasoning_has_as_many_tokens_as_its_budget_and_content_follows(
    pools: Pools, model: str
) -> None:
    markers = 2 if model == "opens" else 1
    whole = thought_tokens(pools, model) - markers
    steps = run(pools, [ask(model, budget, id=budget) for budget in range(whole + 2)])
    for budget in range(whole + 2):
        reasoning, content = split(steps, budget)
        assert content == CONTENT
        assert THOUGHT.startswith(reasoning)
        assert "�" not in reasoning
        end = finished(steps, budget)
        spent = end.reasoning_tokens - markers
        assert spent == min(budget, whole) or (spent <= budget + 3 and reasoning[-1:] in "二😀")
        assert end.reason == "stop"


@pytest.mark.parametrize("model", ["opens", "opened", "spelled"])
def test_with_a_budget_of_zero_no_reasoning_is_said(pools: Pools, model: str) -> None:
    reasoning, content = split(run(pools, [ask(model, 0)]))
    assert reasoning == ""
    assert content.strip() == CONTENT


@pytest.mark.parametrize("model", [name for name in MODELS if name != "long"])
def test_a_budget_that_is_not_spent_changes_nothing(pools: Pools, model: str) -> None:
    steps = run(pools, [ask(model, None), ask(model, 1000, id=2)])
    assert tokens_of(steps, 2) == tokens_of(steps, 1)
    assert split(steps, 2) == split(steps)
    assert finished(steps, 2).reasoning_tokens == finished(steps).reasoning_tokens


@pytest.mark.parametrize(
    "model", ["opens", "opened", "spelled", "harmony", "calls", "spelled-calls"]
)
def test_a_resumed_answer_ends_its_reasoning_at_the_same_token(pools: Pools, model: str) -> None:
    submit = ask(model, 5)
    whole = run(pools, [submit])
    tokens = tokens_of(whole, 1)
    # Within the reasoning, at its end, in the content, and before the last token.
    resumed = {*range(1, 10), len(tokens) - 2} & set(range(1, len(tokens)))
    steps = run(
        pools, [msgspec.structs.replace(submit, id=kept, resume=tokens[:kept]) for kept in resumed]
    )
    for kept in resumed:
        assert tokens[:kept] + tokens_of(steps, kept) == tokens
        assert finished(steps, kept).reasoning_tokens == finished(whole).reasoning_tokens
        assert "".join(split(whole)).endswith("".join(split(steps, kept)))


def test_answers_with_other_budgets_in_one_batch_are_those_alone(pools: Pools) -> None:
    budgets: list[int | None] = [None, 0, 1, 4, 9, 1000]
    submits = [ask("opens", budget, id=n) for n, budget in enumerate(budgets)]
    together = run(pools, submits)
    for submit in submits:
        alone = run(pools, [submit])
        assert tokens_of(together, submit.id) == tokens_of(alone, submit.id)


def test_each_of_several_sequences_has_the_budget(pools: Pools) -> None:
    sampling = Sampling(seed=1, temperature=0.3)
    submit = ask("opened", 3, sampling=sampling, siblings=[Sibling(2, 2), Sibling(3, 3)])
    steps = run(pools, submit.sequences())
    for id in (1, 2, 3):
        assert split(steps, id)[1] == CONTENT
        assert finished(steps, id).reasoning_tokens == 4


@pytest.mark.parametrize("model", ["calls", "spelled-calls", "harmony-call"])
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("budget", [0, 3, 1000])
def test_a_call_after_reasoning_keeps_its_schema(
    pools: Pools, model: str, required: bool, budget: int
) -> None:
    submit = ask(
        model,
        budget,
        prompt=ChatPrompt(MESSAGES, tools=[ADD]),
        calls=ToolUse(["add"], required=required),
    )
    steps = run(pools, [submit])
    events = events_of(steps, 1)
    assert [event.name for event in events if isinstance(event, ToolCallStarted)] == ["add"]
    arguments = "".join(event.text for event in events if isinstance(event, ArgumentsDelta))
    assert msgspec.json.decode(arguments) == {"a": 1}
    assert finished(steps).reason == "tool_calls"
    if model == "calls":
        whole = thought_tokens(pools, model) - 1
        assert finished(steps).reasoning_tokens == min(budget, whole) + 1


@pytest.mark.parametrize("model", ["json", "opens-json", "spelled-json", "harmony-json"])
@pytest.mark.parametrize("budget", [None, 0, 3])
@pytest.mark.parametrize("tools", [[], [ADD]])
def test_a_grammar_holds_the_content_and_leaves_the_reasoning_free(
    pools: Pools, model: str, budget: int | None, tools: list[dict[str, Any]]
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    submit = ask(
        model,
        budget,
        prompt=ChatPrompt(MESSAGES, tools=tools),
        calls=ToolUse(["add"]) if tools else None,
        grammar=JsonSchema(msgspec.json.encode(schema).decode()),
    )
    steps = run(pools, [submit])
    reasoning, content = split(steps)
    # After an end that the budget forces, a model of Harmony's messages may go on with a call.
    arguments = "".join(e.text for e in events_of(steps, 1) if isinstance(e, ArgumentsDelta))
    assert msgspec.json.decode(content or arguments) == {"a": 1}
    if budget is None:
        assert content
        assert reasoning == THOUGHT
    else:
        assert THOUGHT.startswith(reasoning)
        assert len(reasoning) <= 2 * budget
    tokens = tokens_of(steps, 1)
    if budget == 3:
        resumed = {1, 4, 6, len(tokens) - 2}
        again = run(
            pools,
            [msgspec.structs.replace(submit, id=kept, resume=tokens[:kept]) for kept in resumed],
        )
        for kept in resumed:
            assert tokens[:kept] + tokens_of(again, kept) == tokens


def test_an_answer_with_a_grammar_does_not_end_in_its_reasoning(pools: Pools) -> None:
    grammar = TextChoice(["yes", "no"])
    steps = run(pools, [ask("unfinished", 100, grammar=grammar)])
    reasoning, content = split(steps)
    assert reasoning.startswith(THOUGHT)
    assert content in ("yes", "no")
    assert finished(steps).reason == "stop"


def test_a_grammar_defines_the_content_after_reasoning_that_the_model_opens(
    pools: Pools,
) -> None:
    for model in ("opens", "plain", "harmony"):
        steps = run(pools, [ask(model, None, grammar=TextChoice(["yes", "no"]))])
        reasoning, content = split(steps)
        assert content in ("yes", "no")
        assert bool(reasoning) == (model != "plain")


def test_harmony_goes_on_in_another_channel(pools: Pools) -> None:
    reasoning, content = split(run(pools, [ask("harmony", 4)]))
    assert reasoning
    assert THOUGHT.startswith(reasoning)
    assert reasoning != THOUGHT
    assert content


@pytest.mark.parametrize("tools", [[], [ADD]])
def test_harmony_that_reasons_again_after_its_budget_is_ended(
    pools: Pools, tools: list[dict[str, Any]]
) -> None:
    """The staged model always continues a channel's marker with its reasoning."""
    calls = ToolUse(["add"]) if tools else None
    submit = ask("harmony", 2, prompt=ChatPrompt(MESSAGES, tools=tools), calls=calls)
    steps = run(pools, [submit])
    assert finished(steps).reason == "stop"
    assert split(steps)[1]


@pytest.mark.parametrize("max_tokens", [1, 2, 4, 5, 6])
def test_reasoning_that_max_tokens_cuts_is_counted_to_its_end(
    pools: Pools, max_tokens: int
) -> None:
    steps = run(pools, [ask("opened", 4, max_tokens=max_tokens)])
    assert finished(steps).reason == "length"
    assert finished(steps).reasoning_tokens == min(max_tokens, 5)


def ignored(steps: list[Step]) -> list[str]:
    [started] = [event for event in events_of(steps, 1) if isinstance(event, Started)]
    return started.ignored


def test_a_model_without_markers_says_that_it_ignores_the_budget(pools: Pools) -> None:
    assert ignored(run(pools, [ask("plain", 0, max_tokens=4)])) == ["thinking_token_budget"]
    assert ignored(run(pools, [ask("plain", None, max_tokens=4)])) == []
    assert ignored(run(pools, [ask("opens", 0)])) == []
    steps = run(pools, [ask("opens", 0, prompt=TextPrompt("Well?"), max_tokens=4)])
    assert ignored(steps) == ["thinking_token_budget"]
    assert text_of(steps, 1)
