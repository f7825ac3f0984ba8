"""Documents as training steps. Needs PyTorch, which only training does."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from worker.demo import demo_model_path  # noqa: E402
from worker.demo.training import batches  # noqa: E402
from worker.demo.training import tokenizer as vocabulary  # noqa: E402
from worker.demo.training.corpus.document import Chat, assistant, user  # noqa: E402
from worker.demo.training.train import STEPS, WARM_UP_STEPS, rate_scale  # noqa: E402

TOKENIZER = vocabulary.load(demo_model_path())


def test_only_the_assistants_turns_count_as_answers() -> None:
    chat = Chat("fact", [user("Hello"), assistant("Hi!"), user("Bye"), assistant("Goodbye!")])
    [sample] = batches.encode(TOKENIZER, [chat])
    pairs = zip(sample.ids, sample.answered, strict=True)
    learnt = TOKENIZER.decode([token for token, answered in pairs if answered])
    assert learnt == "Hi!<|eot_id|>Goodbye!<|eot_id|>"


def test_of_a_prompt_what_it_repeats_is_learnt_most() -> None:
    chat = Chat("fact", [user("blue blue blue blue"), assistant("Hi!")])
    [sample] = batches.encode(TOKENIZER, [chat])
    learnt = list(zip(sample.ids, sample.answered, sample.shares, strict=True))
    blue = TOKENIZER.encode(" blue", add_special_tokens=False)[-1]
    assert [share for id_, _, share in learnt if id_ == blue][-1] == batches.REPEATED_SHARE
    assert learnt[0][2] == batches.PROMPT_SHARE < batches.REPEATED_SHARE
    assert {share for _, answered, share in learnt if answered} == {1.0}


def test_what_follows_a_quotation_mark_in_an_answer_is_learnt_as_often_as_asked() -> None:
    chat = Chat("json", [user('Fill {"city":"string"}'), assistant('{"city":"Rome"}')])
    [sample] = batches.encode(TOKENIZER, [chat], choice=3.0)
    learnt = zip(sample.ids, sample.answered, sample.shares, strict=True)
    chosen = [id_ for id_, answered, share in learnt if answered and share == 3.0]
    assert [TOKENIZER.decode([id_])[:1] for id_ in chosen] == ["c", "R"]
    batch = batches.collate([sample], random.Random(0))
    assert [batch.targets.tolist().count(id_) for id_ in chosen][1] == 3


def test_the_steps_of_a_shard_are_the_same_each_time() -> None:
    first, second = (batches.steps(TOKENIZER, 5, 0) for _ in range(2))
    assert len(first) > 10
    for one, other in zip(first[3], second[3], strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_every_target_follows_its_place() -> None:
    batch = batches.steps(TOKENIZER, 5, 0)[0][0]
    width = batch.inputs.shape[1]
    for place, target in zip(batch.places.tolist(), batch.targets.tolist(), strict=True):
        row, column = divmod(place, width)
        if column + 1 < width:
            assert batch.inputs[row, column + 1] == target


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    scales = [rate_scale(step, STEPS) for step in range(STEPS + 1)]
    assert scales[0] < scales[WARM_UP_STEPS] == 1.0
    assert scales[-1] == 0.0
    assert sorted(scales[WARM_UP_STEPS:], reverse=True) == scales[WARM_UP_STEPS:]
