"""Documents become training steps. Needs PyTorch, which only training uses."""

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


def test_only_the_assistants_turns_are_answers() -> None:
    chat = Chat("fact", [user("Hello"), assistant("Hi!"), user("Bye"), assistant("Goodbye!")])
    [sample] = batches.encode(TOKENIZER, [chat])
    pairs = zip(sample.ids, sample.in_answer, strict=True)
    answers = TOKENIZER.decode([token for token, in_answer in pairs if in_answer])
    assert answers == "Hi!<|eot_id|>Goodbye!<|eot_id|>"


def test_in_a_prompt_repeated_tokens_have_the_highest_weight() -> None:
    chat = Chat("fact", [user("blue blue blue blue"), assistant("Hi!")])
    [sample] = batches.encode(TOKENIZER, [chat])
    weighted = list(zip(sample.ids, sample.in_answer, sample.weights, strict=True))
    blue = TOKENIZER.encode(" blue", add_special_tokens=False)[-1]
    assert [weight for id_, _, weight in weighted if id_ == blue][-1] == batches.REPEATED_WEIGHT
    assert weighted[0][2] == batches.PROMPT_WEIGHT < batches.REPEATED_WEIGHT
    assert {weight for _, in_answer, weight in weighted if in_answer} == {1.0}


def test_the_token_after_a_quotation_mark_in_an_answer_has_the_choice_weight() -> None:
    chat = Chat("json", [user('Fill {"city":"string"}'), assistant('{"city":"Rome"}')])
    [sample] = batches.encode(TOKENIZER, [chat], choice_weight=3.0)
    weighted = zip(sample.ids, sample.in_answer, sample.weights, strict=True)
    chosen = [id_ for id_, in_answer, weight in weighted if in_answer and weight == 3.0]
    assert [TOKENIZER.decode([id_])[:1] for id_ in chosen] == ["c", "R"]
    batch = batches.collate([sample], random.Random(0))
    assert [batch.targets.tolist().count(id_) for id_ in chosen][1] == 3


def test_the_steps_of_a_shard_are_the_same_each_time() -> None:
    first, second = (batches.steps(TOKENIZER, 5, 0) for _ in range(2))
    assert len(first) > 10
    for one, other in zip(first[3], second[3], strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_every_target_follows_its_position() -> None:
    batch = batches.steps(TOKENIZER, 5, 0)[0][0]
    width = batch.inputs.shape[1]
    for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        row, column = divmod(position, width)
        if column + 1 < width:
            assert batch.inputs[row, column + 1] == target


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    scales = [rate_scale(step, STEPS) for step in range(STEPS + 1)]
    assert scales[0] < scales[WARM_UP_STEPS] == 1.0
    assert scales[-1] == 0.0
    assert sorted(scales[WARM_UP_STEPS:], reverse=True) == scales[WARM_UP_STEPS:]
