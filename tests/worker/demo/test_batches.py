"""Documents as training steps. Needs PyTorch, which only training does."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from worker.demo import batches, demo_model_path  # noqa: E402
from worker.demo import tokenizer as vocabulary  # noqa: E402
from worker.demo.corpus.document import Chat, assistant, user  # noqa: E402
from worker.demo.train import STEPS, WARM_UP_STEPS, rate_scale  # noqa: E402

TOKENIZER = vocabulary.load(demo_model_path())


def test_only_the_assistants_turns_count_as_answers() -> None:
    chat = Chat("fact", [user("Hello"), assistant("Hi!"), user("Bye"), assistant("Goodbye!")])
    [sample] = batches.encode(TOKENIZER, [chat])
    pairs = zip(sample.ids, sample.answered, strict=True)
    learnt = TOKENIZER.decode([token for token, answered in pairs if answered])
    assert learnt == "Hi!<|eot_id|>Goodbye!<|eot_id|>"


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
