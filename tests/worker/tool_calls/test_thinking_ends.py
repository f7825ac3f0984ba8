"""What ends reasoning at its budget is read as its end, with every real chat template."""

from __future__ import annotations

import pytest

from protocol.messages import ChatPrompt, Sampling, Submit, ToolUse
from tests.models.conversations import Conversations
from worker.call_readers.deltas import ContentDelta
from worker.engine.bitmask import WORD_BITS, BitMask
from worker.outputs.thinking_budget import ThinkingBudget

THOUGHT, CONTENT = "I think.", "It is so."
# Those with which no answer has reasoning.
LEAST_THINKING = 10


def only_token(mask: BitMask) -> int:
    """The only token that a mask allows."""
    [word] = [index for index, bits in enumerate(mask) if bits]
    return word * WORD_BITS + (int(mask[word]) & 0xFFFFFFFF).bit_length() - 1


def answer_of(model: Conversations, *, may_call: bool) -> tuple[str, str, str]:
    """The marker before the reasoning, the reasoning and the content of an answer without budget.

    The model goes on with content after the end of its reasoning.
    """
    parsers, tokenizer = model.config.parsers, model.config.prompts.tokenizer
    messages = [{"role": "user", "content": "Why?"}]
    calls = ToolUse(model.names) if may_call else None
    submit = Submit(1, "model", ChatPrompt(messages), Sampling(seed=0), calls=calls)
    text = parsers.create(submit, model.config.prompts.build(submit.prompt))
    begin = "" if text.in_reasoning else parsers.reasoning_markers[0]
    end = parsers.thinking_end(submit)
    assert end is not None
    constraint = ThinkingBudget(text, len(THOUGHT), end)
    said = {"reasoning": "", "content": ""}

    def draw(token: int) -> None:
        constraint.accept(token)
        _, deltas = text.read(token)
        for delta in deltas:
            assert isinstance(delta, ContentDelta)
            said[delta.kind] += delta.text

    for token in tokenizer.encode(begin + THOUGHT, add_special_tokens=False):
        assert constraint.mask() is None
        draw(token)
    while (mask := constraint.mask()) is not None:
        draw(only_token(mask))
    header = tokenizer.decode(end.again[len(end.first) :])
    for token in tokenizer.encode(header + CONTENT, add_special_tokens=False):
        assert constraint.mask() is None
        draw(token)
    for delta in text.finish(truncated=False):
        assert isinstance(delta, ContentDelta)
        said[delta.kind] += delta.text
    return begin, said["reasoning"], said["content"]


@pytest.mark.long
def test_reasoning_ends_at_its_budget_and_content_follows(
    real_templates: dict[str, str],
) -> None:
    wrong = {}
    thinking = 0
    for name in sorted(real_templates):
        model = Conversations(real_templates[name], [])
        if not model.config.parsers.reasoning_markers:
            continue
        thinking += 1
        for may_call in (False, True):
            begin, *said = answer_of(model, may_call=may_call)
            if said != [THOUGHT, CONTENT]:
                wrong[name] = (begin, *said)
    assert wrong == {}
    assert thinking >= LEAST_THINKING
