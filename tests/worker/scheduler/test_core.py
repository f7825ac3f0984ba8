"""The engine core on real models: batching, joining and leaving, stopping, cancelling, resuming."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol.events import Failed, Finished, Progress, Rejected, Started, TextDelta
from protocol.messages import (
    Cancel,
    ChatPrompt,
    Sampling,
    SetMaxRunning,
    Step,
    Submit,
    TextPrompt,
    TokenPrompt,
)
from tests.oracle import chat_tokens, greedy_tokens
from tests.worker.driver import (
    end_of,
    events_of,
    make_pool,
    run_loop,
    text_of,
    tokens_of,
)
from worker.call_readers.deltas import OutputDelta
from worker.intake.prepared import prepare
from worker.intake.receiver import Work
from worker.models.pool import ModelPool
from worker.outputs.text import Text

GREEDY = Sampling(seed=0, temperature=0.0)
ANSWER_TOKENS = 48
# Of each of sixteen rows, and of each by mlx-lm alone.
BATCH_TOKENS = 24


@pytest.fixture(scope="module")
def pool(llama_path: Path, qwen_path: Path, gemma_path: Path) -> ModelPool:
    return make_pool(llama_path, qwen_path, gemma_path)


def greedy(id: int, model: str, prompt: str, max_tokens: int = ANSWER_TOKENS) -> Submit:
    return Submit(
        id=id, model=model, prompt=TextPrompt(prompt), sampling=GREEDY, max_tokens=max_tokens
    )


def prompts(count: int) -> list[str]:
    """Prompts of many lengths, up to several prefill chunks."""
    return [f"Number {n}: " + "the quick brown fox " * (n * n % 90) for n in range(1, count + 1)]


def test_greedy_tokens_are_those_of_mlx_lm_alone_and_in_a_batch_of_sixteen(
    pool: ModelPool, model_paths: dict[str, Path]
) -> None:
    for path in model_paths.values():
        submits = [greedy(n, path.name, text, BATCH_TOKENS) for n, text in enumerate(prompts(16))]
        together = run_loop(pool, submits)
        # Some of each length.
        for submit in submits[::5]:
            ids = pool[path.name].config.prompts.build(submit.prompt)
            assert tokens_of(together, submit.id) == greedy_tokens(path, ids, BATCH_TOKENS)
        alone = run_loop(pool, [submits[5]])
        assert tokens_of(alone, 5) == tokens_of(together, 5)


def test_each_of_several_models_gets_a_step_in_every_round(pool: ModelPool) -> None:
    submits = [greedy(n, model.info.id, "side by side") for n, model in enumerate(pool)]
    steps = run_loop(pool, submits)
    ids = [event.id for step in steps for event in step.events if isinstance(event, TextDelta)]
    last = {id: number for number, id in enumerate(ids)}
    together = ids[max(map(ids.index, last)) : min(last.values())]
    count = len(submits)
    assert len(together) > count
    rounds = [together[n : n + count] for n in range(len(together) - count + 1)]
    assert all(len(set(each)) == count for each in rounds)


def test_seeded_text_does_not_depend_on_the_rest_of_the_batch(
    pool: ModelPool, llama_path: Path
) -> None:
    def seeded(id: int, seed: int, temperature: float, top_p: float) -> Submit:
        sampling = Sampling(seed, temperature, top_p)
        return Submit(
            id=id,
            model=llama_path.name,
            prompt=TextPrompt("once upon"),
            sampling=sampling,
            max_tokens=ANSWER_TOKENS,
        )

    submits = [seeded(n, n % 8, 0.5 + n % 3 / 2, 1.0 - n % 2 / 4) for n in range(16)]
    together = run_loop(pool, submits)
    for submit in submits[:6]:
        alone = run_loop(pool, [submit])
        assert tokens_of(alone, submit.id) == tokens_of(together, submit.id)
    assert len({text_of(together, submit.id) for submit in submits[:8]}) == 8


PENALISED = [
    Sampling(1, 1.0, presence_penalty=1.0, frequency_penalty=0.5),
    Sampling(2, 0.8, repetition_penalty=1.2, top_p=0.9),
    Sampling(0, 0.0, frequency_penalty=2.0, logit_bias={12: 3.0}),
    Sampling(3, 1.0, min_tokens=20, ignore_eos=True, presence_penalty=-1.0),
]


def test_an_answer_with_penalties_is_the_same_when_it_is_resumed_anywhere(
    pool: ModelPool, llama_path: Path
) -> None:
    submits = [
        Submit(
            id=n,
            model=llama_path.name,
            prompt=TextPrompt("and on"),
            sampling=sampling,
            max_tokens=ANSWER_TOKENS,
        )
        for n, sampling in enumerate(PENALISED)
    ]
    whole = run_loop(pool, submits)
    for cut in (1, 20, ANSWER_TOKENS - 1):
        resumed = [
            msgspec.structs.replace(submit, resume=tokens_of(whole, submit.id)[:cut])
            for submit in submits
        ]
        rest = run_loop(pool, resumed)
        for submit in submits:
            assert tokens_of(rest, submit.id) == tokens_of(whole, submit.id)[cut:]


def test_a_request_that_comes_later_joins_the_running_batch(
    pool: ModelPool, llama_path: Path
) -> None:
    first, second = (greedy(n, llama_path.name, "join") for n in (1, 2))
    added: list[Work] = []

    def add_second(step: Step) -> list[Work]:
        if not added and len(tokens_of([step], 1)):
            added.append(prepare(pool[second.model].config, second))
            return added
        return []

    steps = run_loop(pool, [first], after_step=add_second)
    running = [step.stats.running for step in steps]
    assert max(running) == 2
    assert text_of(steps, 1) == text_of(steps, 2)


def test_at_most_max_running_requests_run_and_the_rest_wait_in_order(
    pool: ModelPool, llama_path: Path
) -> None:
    submits = [greedy(n, llama_path.name, "wait", max_tokens=4) for n in range(10)]
    steps = run_loop(pool, submits, max_running=3)
    assert max(step.stats.running for step in steps) == 3
    assert steps[0].stats.waiting == 7
    started = [e.id for step in steps for e in step.events if isinstance(e, Started)]
    assert started == sorted(started)


def test_a_cancelled_request_leaves_within_one_step(pool: ModelPool, llama_path: Path) -> None:
    long, short = greedy(1, llama_path.name, "a", 400), greedy(2, llama_path.name, "b", 30)

    def cancel(step: Step) -> list[Work]:
        return (
            [Cancel([1])]
            if any(e.id == 1 and isinstance(e, TextDelta) for e in step.events)
            else []
        )

    steps = run_loop(pool, [long, short], after_step=cancel)
    [last] = [n for n, step in enumerate(steps) if any(e.id == 1 for e in step.events)][-1:]
    assert steps[last + 1].stats.running == 1
    assert len(tokens_of(steps, 1)) == 1
    assert isinstance(end_of(steps, 2), Finished)


def test_a_request_cancelled_in_prefill_or_in_the_queue_gets_no_more_events(
    llama_path: Path,
) -> None:
    pool = make_pool(llama_path, prefill_step_tokens=64)
    long = greedy(1, llama_path.name, "word " * 900)
    queued = greedy(2, llama_path.name, "queued")
    last = greedy(3, llama_path.name, "last", 4)

    def cancel(step: Step) -> list[Work]:
        return [Cancel([1, 2])] if any(e.id == 1 for e in step.events) else []

    steps = run_loop(pool, [long, queued, last], max_running=1, after_step=cancel)
    # The step that has begun goes on to its end.
    assert [type(e) for e in events_of(steps, 1)] in ([Started], [Started, Progress])
    assert events_of(steps, 2) == []
    assert isinstance(end_of(steps, 3), Finished)


def test_a_request_starts_before_its_prefill_and_reports_its_progress(llama_path: Path) -> None:
    pool = make_pool(llama_path, prefill_step_tokens=64)
    long = greedy(1, llama_path.name, "word " * 900, 2)
    steps = run_loop(pool, [long])
    [started] = [step for step in steps if any(isinstance(e, Started) for e in step.events)]
    assert [type(event) for event in started.events] == [Started]
    assert (started.stats.running, started.stats.device_ms) == (1, 0.0)
    [prompt_tokens] = [e.prompt_tokens for e in started.events if isinstance(e, Started)]
    progress = [e for e in events_of(steps, 1) if isinstance(e, Progress)]
    done = [event.done for event in progress]
    assert len(done) >= prompt_tokens // 64 - 1
    assert done == sorted(set(done))
    assert 0 < done[0] <= 64
    assert done[-1] < prompt_tokens
    assert {event.total for event in progress} == {prompt_tokens}
    assert isinstance(end_of(steps, 1), Finished)


def test_a_short_prompt_reports_no_progress(llama_path: Path) -> None:
    pool = make_pool(llama_path)
    steps = run_loop(pool, [greedy(1, llama_path.name, "hi", 2)])
    assert not [e for e in events_of(steps, 1) if isinstance(e, Progress)]


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode(llama_path: Path) -> None:
    pool = make_pool(llama_path, prefill_step_tokens=64)
    short = greedy(1, llama_path.name, "short", 60)
    long = greedy(2, llama_path.name, "word " * 900, 4)
    steps = run_loop(pool, [short, long])
    before_long = [s for s in steps if s.events and not tokens_of([s], 2)]
    assert sum(len(tokens_of([step], 1)) for step in before_long) >= 10


def test_a_resumed_answer_has_the_tokens_of_one_that_was_not_interrupted(
    pool: ModelPool, model_paths: dict[str, Path]
) -> None:
    settings = [GREEDY, Sampling(seed=11, temperature=0.9, top_p=0.95)]
    for path in model_paths.values():
        for n, sampling in enumerate(settings):
            submit = Submit(
                id=n,
                model=path.name,
                prompt=TextPrompt("resume me"),
                sampling=sampling,
                max_tokens=ANSWER_TOKENS,
            )
            whole = run_loop(pool, [submit])
            for kept in (1, 7, ANSWER_TOKENS - 1):
                resume = tokens_of(whole, n)[:kept]
                resumed = Submit(
                    id=n,
                    model=path.name,
                    prompt=submit.prompt,
                    sampling=sampling,
                    max_tokens=ANSWER_TOKENS,
                    resume=resume,
                )
                steps = run_loop(pool, [resumed])
                assert resume + tokens_of(steps, n) == tokens_of(whole, n)
                before = "".join(
                    e.text for e in events_of(whole, n)[1 : kept + 1] if isinstance(e, TextDelta)
                )
                assert before + text_of(steps, n) == text_of(whole, n)
                end = end_of(steps, n)
                assert isinstance(end, Finished)
                assert end.completion_tokens == ANSWER_TOKENS


def test_a_stop_string_ends_the_text_before_itself_and_frees_the_row(
    pool: ModelPool, llama_path: Path
) -> None:
    whole = text_of(run_loop(pool, [greedy(1, llama_path.name, "stop here")]), 1)
    stop = whole[len(whole) // 2 :][:5]
    submit = Submit(
        id=2,
        model=llama_path.name,
        prompt=TextPrompt("stop here"),
        sampling=GREEDY,
        max_tokens=400,
        stop=[stop],
    )
    steps = run_loop(pool, [submit])
    assert text_of(steps, 2) == whole[: whole.index(stop)]
    end = end_of(steps, 2)
    assert isinstance(end, Finished)
    assert (end.reason, end.stopped_by, end.at_context) == ("stop", stop, False)
    assert end.completion_tokens == len(tokens_of(steps, 2)) < 400
    assert steps[-1].stats.running == 0


def test_an_answer_that_fills_the_context_ends_by_length(llama_path: Path) -> None:
    pool = make_pool(llama_path, context_limit=40)
    submit = Submit(id=1, model=llama_path.name, prompt=TokenPrompt([300] * 30), sampling=GREEDY)
    steps = run_loop(pool, [submit])
    end = end_of(steps, 1)
    assert isinstance(end, Finished)
    assert (end.reason, end.prompt_tokens, end.completion_tokens) == ("length", 30, 10)


def test_a_bad_prompt_does_not_affect_other_requests(pool: ModelPool, llama_path: Path) -> None:
    fine = greedy(1, llama_path.name, "fine")
    bad = Submit(
        id=2, model=llama_path.name, prompt=TokenPrompt([10**6]), sampling=GREEDY, max_tokens=4
    )
    too_long = Submit(
        id=3, model=llama_path.name, prompt=TextPrompt("x"), sampling=GREEDY, max_tokens=10**6
    )
    steps = run_loop(pool, [bad, fine, too_long])
    assert text_of(steps, 1) == text_of(run_loop(pool, [fine]), 1)
    assert [type(event) for event in events_of(steps, 2)] == [Rejected]
    rejected = end_of(steps, 3)
    assert isinstance(rejected, Rejected)
    assert rejected.code == "context_length_exceeded"


def test_an_error_in_one_sequences_text_ends_only_that_sequence(
    pool: ModelPool, llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Text):
        def push(self, token: int) -> list[OutputDelta]:
            raise LookupError("an error that the test causes")

    submits = [greedy(1, llama_path.name, "a"), greedy(2, llama_path.name, "b")]
    expected = text_of(run_loop(pool, submits), 2)
    model = pool[llama_path.name]
    create = model.config.parsers.create

    def create_faulty(submit: Submit, prompt: list[int]) -> Text:
        text = create(submit, prompt)
        if submit.id == 1:
            text.__class__ = Faulty
        return text

    monkeypatch.setattr(model.config.parsers, "create", create_faulty)
    steps = run_loop(pool, submits)
    assert isinstance(end_of(steps, 1), Failed)
    assert text_of(steps, 2) == expected


def test_a_chat_prompt_is_rendered_by_the_models_own_template(
    pool: ModelPool, model_paths: dict[str, Path]
) -> None:
    messages = [{"role": "user", "content": "Hello there"}]
    for path in model_paths.values():
        assert pool[path.name].config.prompts.build(ChatPrompt(messages)) == chat_tokens(
            path, messages
        )


def test_set_max_running_changes_how_many_requests_run(pool: ModelPool) -> None:
    submits = [greedy(n, "tiny-llama", "limited", max_tokens=12) for n in range(6)]

    messages = iter([[SetMaxRunning(4)]])
    steps = run_loop(pool, submits, max_running=1, after_step=lambda _: next(messages, []))
    assert steps[0].stats.running == 1
    assert max(step.stats.running for step in steps) == 4
