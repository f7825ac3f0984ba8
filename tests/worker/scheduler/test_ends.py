"""What an answer's end tells: the stop string, or whose limit it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol.events import Finished
from protocol.messages import Sampling, Sibling, Submit, TextPrompt, TokenPrompt
from tests.worker.driver import end_of, make_pool, run_loop, text_of, tokens_of

GREEDY = Sampling(seed=0, temperature=0.0)
ANSWER_TOKENS = 48


def test_each_of_several_sequences_tells_what_ended_it_also_after_a_resume(
    llama_path: Path,
) -> None:
    pool = make_pool(llama_path)
    plain = Submit(1, llama_path.name, TextPrompt("stop here"), GREEDY, max_tokens=ANSWER_TOKENS)
    whole = text_of(run_loop(pool, [plain]), 1)
    stop = whole[len(whole) // 2 :][:5]
    submit = Submit(
        id=1,
        model=llama_path.name,
        prompt=TextPrompt("stop here"),
        sampling=Sampling(seed=5, temperature=0.9),
        max_tokens=ANSWER_TOKENS,
        stop=["never said", stop, "\ufffe"],
        siblings=[Sibling(2, 6), Sibling(3, 7)],
    )
    sequences = submit.sequences()
    sequences[1] = msgspec.structs.replace(sequences[1], sampling=GREEDY)
    steps = run_loop(pool, sequences)
    answers = {n: (tokens_of(steps, n), end_of(steps, n)) for n in (1, 2, 3)}
    ends = [end for _, end in answers.values() if isinstance(end, Finished)]
    assert ends[1].stopped_by == stop
    assert [end.stopped_by for end in (ends[0], ends[2])] == [None, None]
    resumed = [msgspec.structs.replace(each, resume=answers[each.id][0][:-2]) for each in sequences]
    again = run_loop(pool, resumed)
    for end in ends:
        other = end_of(again, end.id)
        assert isinstance(other, Finished)
        assert (other.reason, other.stopped_by) == (end.reason, end.stopped_by)


@pytest.mark.parametrize(("max_tokens", "at_context"), [(9, False), (10, False), (11, True)])
@pytest.mark.parametrize("kept", [0, 1, 8])
def test_an_answer_tells_whether_the_context_ended_it_or_its_own_limit(
    llama_path: Path, max_tokens: int, at_context: bool, kept: int
) -> None:
    pool = make_pool(llama_path, context_limit=40)
    submit = Submit(
        id=1,
        model=llama_path.name,
        prompt=TokenPrompt([300] * 30),
        sampling=GREEDY,
        max_tokens=max_tokens,
        resume=[300] * kept,
        ceiling=True,
    )
    unlimited = msgspec.structs.replace(submit, id=2, max_tokens=None)
    steps = run_loop(pool, [submit, unlimited])
    end, other = end_of(steps, 1), end_of(steps, 2)
    assert isinstance(end, Finished)
    assert isinstance(other, Finished)
    assert (end.reason, end.at_context) == ("length", at_context)
    assert (other.reason, other.at_context) == ("length", True)
