"""Completions: the prompts of a list."""

from __future__ import annotations

from protocol.messages import TextPrompt, TokenPrompt
from service.api.completions.format import CompletionFormat, to_prompts
from service.schema.completions import CompletionRequest


def test_equal_prompts_of_a_list_are_one_object() -> None:
    prompts = to_prompts(["a", "b", "a", [1, 2], [1, 2], [3]], suffix="s")
    assert prompts == [
        TextPrompt("a", "s"),
        TextPrompt("b", "s"),
        TextPrompt("a", "s"),
        TokenPrompt([1, 2]),
        TokenPrompt([1, 2]),
        TokenPrompt([3]),
    ]
    assert prompts[0] is prompts[2]
    assert prompts[3] is prompts[4]


def test_the_candidates_of_each_prompt_share_its_object() -> None:
    request = CompletionRequest(model="m", prompt=["a", "b"], best_of=3)
    submits = CompletionFormat().to_submits(request, "m")
    assert [submit.prompt for submit in submits] == [TextPrompt("a")] * 3 + [TextPrompt("b")] * 3
    assert len({id(submit.prompt) for submit in submits}) == 2
    assert len({submit.sampling.seed for submit in submits[:3]}) == 3
