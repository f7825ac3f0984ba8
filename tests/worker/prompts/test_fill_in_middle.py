"""A prompt with a suffix becomes the model's fill-in-the-middle prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer

from protocol.messages import TextPrompt
from worker.prompt_errors import PromptError
from worker.prompts.builder import PromptBuilder
from worker.prompts.fill_in_middle import KNOWN_TRIPLES, find_fill_in_middle


def builder(path: Path, *special: str) -> PromptBuilder:
    tokenizer = load_tokenizer(path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return PromptBuilder(tokenizer, vocabulary_size=2000, context_length=100)


@pytest.mark.parametrize("triple", KNOWN_TRIPLES)
def test_the_prompt_is_prefix_then_suffix_then_the_middle_token(
    llama_path: Path, triple: tuple[str, str, str]
) -> None:
    tokenizer = load_tokenizer(llama_path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(triple)})
    prefix_ids, suffix_ids = (
        tokenizer.encode(text, add_special_tokens=False) for text in ("one ", " three")
    )
    prefix, suffix, middle = tokenizer.convert_tokens_to_ids(list(triple))
    assert builder(llama_path, *triple).build(TextPrompt("one ", " three")) == [
        *(tokenizer.bos_token_id, prefix),
        *prefix_ids,
        suffix,
        *suffix_ids,
        middle,
    ]


@pytest.mark.parametrize("special", [(), KNOWN_TRIPLES[0][:2]])
def test_a_model_without_all_three_tokens_refuses_a_suffix(
    llama_path: Path, special: tuple[str, ...]
) -> None:
    with pytest.raises(PromptError) as caught:
        builder(llama_path, *special).build(TextPrompt("one ", " three"))
    assert caught.value.param == "suffix"
    assert find_fill_in_middle(load_tokenizer(llama_path)) is None
