"""The tokenizer's results: those of transformers, and those that a generation's prompt has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from protocol.events import Tokenized
from protocol.messages import ChatPrompt, ModelSource, Prompt, TextPrompt, TokenPrompt
from protocol.tokenization import Tokenize
from tests.worker.driver import make_config_loader
from worker.prompt_errors import PromptError
from worker.prompts import tokenization
from worker.prompts.builder import PromptBuilder
from worker.prompts.tokenization import convert

FAMILIES = ("llama", "qwen", "gemma")
SPECIAL = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|begin_of_text|>", "<bos>")
CONTEXT = 50
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(SPECIAL),
    max_size=6,
).map("".join)
conversations = st.builds(
    ChatPrompt,
    st.lists(texts, min_size=1, max_size=3).map(
        lambda contents: [
            {"role": ("user", "assistant")[index % 2], "content": content or "x"}
            for index, content in enumerate(contents)
        ]
    ),
    tools=st.sampled_from([[], [TOOL]]),
    generation_prompt=st.booleans(),
)


@pytest.fixture(scope="module")
def builders(model_paths: Mapping[str, Path]) -> dict[str, PromptBuilder]:
    loader = make_config_loader(CONTEXT)
    sources = {name: ModelSource(name, str(path)) for name, path in model_paths.items()}
    return {name: loader.load(each, download=False).prompts for name, each in sources.items()}


@pytest.fixture(scope="module")
def tokenizers(model_paths: Mapping[str, Path]) -> dict[str, PreTrainedTokenizerBase]:
    return {name: AutoTokenizer.from_pretrained(path) for name, path in model_paths.items()}


def run(builder: PromptBuilder, prompt: Prompt | None, **options: Any) -> Tokenized:
    encoded = msgspec.Raw(msgspec.msgpack.encode(prompt))
    return convert(builder, Tokenize(id=1, model="m", prompt=encoded, **options))


def tokens_of(builder: PromptBuilder, prompt: Prompt, **options: Any) -> list[int]:
    result = run(builder, prompt, **options)
    tokens = msgspec.json.decode(result.value, type=list[int])
    assert result.count == len(tokens)
    assert result.context_length == CONTEXT
    return tokens


def text_of(builder: PromptBuilder, prompt: Prompt, **options: Any) -> str:
    return msgspec.json.decode(run(builder, prompt, **options).value, type=str)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
@example(text="a" * 1000)
def test_the_tokens_of_a_text_are_those_of_transformers(
    builders: dict[str, PromptBuilder],
    tokenizers: dict[str, PreTrainedTokenizerBase],
    family: str,
    text: str,
) -> None:
    builder, tokenizer = builders[family], tokenizers[family]
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert tokens_of(builder, TextPrompt(text)) == expected
    own = tokenizer.encode(text)
    # A text that begins with the first special token gets no other, as in a completion.
    if tokenizer.bos_token is None or not text.startswith(tokenizer.bos_token):
        assert tokens_of(builder, TextPrompt(text), special_tokens=True) == own
    plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokens_of(builder, TextPrompt(text), parse_special=False) == plain


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
def test_a_text_has_as_many_tokens_as_the_prompt_of_a_completion(
    builders: dict[str, PromptBuilder], family: str, text: str
) -> None:
    prompt = TextPrompt(text or "x")
    tokens = tokens_of(builders[family], prompt, special_tokens=True)
    assert tokens == builders[family].build(prompt)


@pytest.mark.parametrize("family", FAMILIES)
@given(prompt=conversations)
@example(prompt=ChatPrompt([{"role": "user", "content": " "}]))
def test_messages_have_the_tokens_of_a_chats_prompt(
    builders: dict[str, PromptBuilder], family: str, prompt: ChatPrompt
) -> None:
    builder = builders[family]
    expected = builder.build(prompt)
    assert tokens_of(builder, prompt) == expected
    tokenizer = builder.tokenizer
    first = [] if tokenizer.bos_token is None else [tokenizer.bos_token_id]
    assert tokens_of(builder, prompt, special_tokens=True) == [*first, *expected]


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
def test_a_text_is_the_text_of_its_tokens(
    builders: dict[str, PromptBuilder], family: str, text: str
) -> None:
    builder = builders[family]
    normalizer = builder.tokenizer.backend_tokenizer.normalizer
    # Qwen's tokenizer composes characters, and does not decompose them again.
    same = normalizer.normalize_str(text) if family == "qwen" else text
    tokens = tokens_of(builder, TextPrompt(text))
    assert text_of(builder, TokenPrompt(tokens)) == same


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
def test_the_pieces_of_a_text_are_the_bytes_of_the_text(
    builders: dict[str, PromptBuilder], family: str, text: str
) -> None:
    builder = builders[family]
    result = run(builder, TextPrompt(text), strings="pieces")
    pieces = msgspec.json.decode(result.value, type=list[dict[str, Any]])
    tokens = tokens_of(builder, TextPrompt(text))
    assert [piece["id"] for piece in pieces] == tokens
    data = [p.encode() if isinstance(p := piece["piece"], str) else bytes(p) for piece in pieces]
    assert b"".join(data).decode() == text_of(builder, TokenPrompt(tokens))
    for piece in pieces:
        if isinstance(piece["piece"], list):
            with pytest.raises(UnicodeDecodeError):
                bytes(piece["piece"]).decode()


def test_a_part_of_a_character_is_an_array_of_bytes(builders: dict[str, PromptBuilder]) -> None:
    result = run(builders["llama"], TextPrompt("😀"), strings="pieces")
    pieces = [piece["piece"] for piece in msgspec.json.decode(result.value)]
    assert pieces == [[0xF0], [0x9F], [0x98], [0x80]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_strings_of_tokens_are_those_of_the_vocabulary(
    builders: dict[str, PromptBuilder],
    tokenizers: dict[str, PreTrainedTokenizerBase],
    family: str,
) -> None:
    result = run(builders[family], TextPrompt("Hello there, é"), strings="vocabulary")
    tokens = msgspec.json.decode(result.value)
    assert msgspec.json.decode(result.strings) == tokenizers[family].convert_ids_to_tokens(tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_rendered_as_the_template_renders_it(
    builders: dict[str, PromptBuilder],
    tokenizers: dict[str, PreTrainedTokenizerBase],
    family: str,
) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    expected = tokenizers[family].apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text_of(builders[family], ChatPrompt(messages), as_text=True) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_id_outside_the_vocabulary_is_refused_by_its_index(
    builders: dict[str, PromptBuilder], family: str
) -> None:
    builder = builders[family]
    assert text_of(builder, TokenPrompt([builder.largest_id]), param="tokens") == ""
    for outside in (builder.largest_id + 1, 2**31 - 1):
        with pytest.raises(PromptError, match=f"token id {outside} is outside") as caught:
            run(builder, TokenPrompt([1, 2, outside, outside]), param="tokens")
        assert (caught.value.code, caught.value.param) == ("invalid_value", "tokens[2]")


def test_a_result_that_is_too_large_is_refused(
    builders: dict[str, PromptBuilder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenization, "MAX_RESULT_BYTES", 20)
    assert tokens_of(builders["llama"], TextPrompt("a b"), param="content")
    with pytest.raises(PromptError, match="more than") as caught:
        run(builders["llama"], TextPrompt("a b c d e f"), strings="pieces", param="content")
    assert (caught.value.code, caught.value.param) == ("prompt_too_large", "content")


def test_what_a_model_ignores_is_named(builders: dict[str, PromptBuilder]) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    prompt = ChatPrompt(messages, options={"enable_thinking": False})
    assert run(builders["llama"], prompt).ignored == ["chat_template_kwargs.enable_thinking"]
