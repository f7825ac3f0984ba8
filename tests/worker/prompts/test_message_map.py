"""Each token of a conversation's prompt is in the message that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from protocol.events import Origin
from protocol.messages import ChatPrompt, TextPrompt
from tests.models import chat_templates, templates
from worker.cache.radix_node import shared_length
from worker.outputs.detokenizer import make_token_bytes
from worker.prompts.builder import PromptBuilder, ShortPrompt
from worker.prompts.message_map import NO_MESSAGES, MessageMap

MakeBuilder = Callable[[str, str], PromptBuilder]
Message = dict[str, Any]

TEMPLATES = {
    "llama": templates.LLAMA,
    "qwen": templates.QWEN,
    "gemma": templates.GEMMA,
    "first system only": chat_templates.FIRST_SYSTEM_ONLY,
    "system at the beginning": chat_templates.SYSTEM_AT_THE_BEGINNING,
    "alternating": chat_templates.ALTERNATING,
    "described tools": chat_templates.DESCRIBED_TOOLS,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"c": {"type": "string"}}},
    },
}


def message(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def call(*ids: str) -> list[Message]:
    arguments = '{"c": "Paris"}'
    return [
        {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        for id in ids
    ]


CONVERSATIONS: dict[str, list[Message]] = {
    "turns": [
        message("system", "Be brief and kind."),
        message("user", "Hello there"),
        message("assistant", "Hi, friend."),
        message("user", "How are you?"),
        message("assistant", "Fine."),
        message("user", "And now what is it?"),
    ],
    "without instructions": [
        message("user", "Hello there"),
        message("assistant", "Hi, friend."),
        message("user", "How are you?"),
    ],
    "calls": [
        message("system", "Be brief."),
        message("user", "Weather?"),
        message("assistant", "", tool_calls=call("abcdefgh1")),
        message("tool", "rain here", tool_call_id="abcdefgh1"),
        message("assistant", "It rains."),
        message("user", "And there?"),
        message("assistant", "Let me see.", tool_calls=call("abcdefgh2", "abcdefgh3")),
        message("tool", "sun", tool_call_id="abcdefgh2"),
        message("tool", "fog", tool_call_id="abcdefgh3"),
        message("assistant", "Sun and fog."),
        message("user", "Thanks"),
    ],
    "inner instructions": [
        message("system", "A b c."),
        message("user", "Hello"),
        message("assistant", "Yes"),
        message("system", "Now short."),
        message("user", "Go on"),
        message("user", "Twice said"),
    ],
}


@pytest.fixture(scope="module")
def make(model_paths: dict[str, Path]) -> MakeBuilder:
    made: dict[tuple[str, str], PromptBuilder] = {}

    def make_builder(model: str, template: str) -> PromptBuilder:
        if (model, template) not in made:
            tokenizer = load_tokenizer(model_paths[model])
            tokenizer.chat_template = template
            made[model, template] = PromptBuilder(
                tokenizer,
                vocabulary_size=1000,
                context_length=10_000,
                token_bytes=make_token_bytes(tokenizer),
            )
        return made[model, template]

    return make_builder


def edits(content: str) -> Iterator[str]:
    """The content with a change at its beginning, in the middle and at its end."""
    middle = len(content) // 2
    yield f"Z{content}"
    yield f"\n{content}"
    yield f"{content[:middle]}QQ{content[middle:]}"
    yield f"{content} zz"
    yield content[:-1]
    yield "Something else."


def map_of(builder: PromptBuilder, messages: list[Message], **options: Any) -> MessageMap:
    prompt = ChatPrompt(messages, **options)
    return builder.map_messages(ShortPrompt(prompt), builder.build(prompt))


def text_of_each(builder: PromptBuilder, messages: list[Message], **options: Any) -> list[Any]:
    """The text of each message's tokens, with its index."""
    prompt = ChatPrompt(messages, **options)
    tokens = builder.build(prompt)
    found = builder.map_messages(ShortPrompt(prompt), tokens)
    ends = [*found.starts[1:], len(tokens)]
    parts = zip(found.indexes, found.starts, ends, strict=True)
    return [(index, str(builder.tokenizer.decode(tokens[a:b]))) for index, a, b in parts]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("model", ["llama", "gemma"])
def test_the_first_token_that_an_edit_changes_is_in_the_edited_message(
    make: MakeBuilder, model: str, template: str, conversation: str
) -> None:
    builder, messages = make(model, TEMPLATES[template]), CONVERSATIONS[conversation]
    options: dict[str, Any] = {"tools": [TOOL]} if conversation == "calls" else {}
    known = builder.build(ChatPrompt(messages, **options))
    checked = 0
    for index, each in enumerate(messages):
        for content in edits(each["content"]) if each["content"] else ["A word."]:
            changed = [*messages[:index], {**each, "content": content}, *messages[index + 1 :]]
            tokens = builder.build(ChatPrompt(changed, **options))
            place = shared_length(known, tokens)
            # Templates may strip what was added.
            if place < len(tokens):
                found = map_of(builder, changed, **options).find(place)
                assert found == (index, each["role"]), (content, place)
                checked += 1
    assert checked > 3 * len(messages)


def test_each_message_has_its_head_its_calls_and_its_end(make: MakeBuilder) -> None:
    builder = make("qwen", templates.QWEN)
    parts = text_of_each(builder, CONVERSATIONS["calls"][:4], tools=[TOOL])
    assert [index for index, _ in parts] == [0, 1, 2, 3, -1]
    texts = [text for _, text in parts]
    assert texts[0].startswith("<|im_start|>system\n")
    assert texts[0].endswith("Be brief.<|im_end|>\n")
    assert "get_weather" in texts[0]
    assert texts[1] == "<|im_start|>user\nWeather?<|im_end|>\n"
    assert texts[2].startswith("<|im_start|>assistant")
    assert "Paris" in texts[2]
    assert "rain here" in texts[3]
    assert texts[4] == "<|im_start|>assistant\n"


def test_reasoning_is_part_of_its_message(make: MakeBuilder) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}"
        "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<end>{% endfor %}"
    )
    messages = [
        message("user", "Why?"),
        message("assistant", "Because.", reasoning_content="Hard to say."),
        message("user", "Really?"),
    ]
    parts = text_of_each(make("llama", template), messages)
    assert parts[1] == (1, "<assistant><think>Hard to say.</think>Because.<end>")


def test_what_a_template_writes_before_the_first_question_is_in_no_message(
    make: MakeBuilder,
) -> None:
    template = "Own instructions.<|eot_id|>" + templates.QWEN
    found = map_of(make("llama", template), CONVERSATIONS["without instructions"])
    assert found.find(0) == (None, None)
    assert found.find(found.starts[1]) == (0, "user")


def test_messages_of_other_apis_have_the_place_that_they_had_there(make: MakeBuilder) -> None:
    origins = [Origin(-1, "system"), Origin(0, "user"), Origin(4, "assistant"), Origin(5, "user")]
    found = map_of(make("llama", templates.LLAMA), CONVERSATIONS["turns"][:4], origins=origins)
    assert found.find(found.starts[0]) == (None, "system")
    assert found.find(found.starts[2]) == (4, "assistant")
    assert found.find(found.starts[3] + 4) == (5, "user")


def test_messages_that_are_left_out_count(make: MakeBuilder) -> None:
    builder, messages = make("llama", templates.LLAMA), CONVERSATIONS["turns"]
    prompt = ChatPrompt([messages[0], *messages[3:]])
    found = builder.map_messages(ShortPrompt(prompt, [], 2), builder.build(prompt))
    assert [index for index in found.indexes if index >= 0] == [0, 3, 4, 5]


def test_a_prompt_that_cannot_be_followed_has_no_map(make: MakeBuilder) -> None:
    whole = "{% for m in messages %}{{ m.content }}{{ m.content | length }}{% endfor %}"
    messages = CONVERSATIONS["turns"]
    assert map_of(make("llama", whole), messages) == NO_MESSAGES
    marked = [message("user", "\U0010fff00\U0010fff2 hi")]
    assert map_of(make("llama", templates.LLAMA), marked) == NO_MESSAGES
    text = ShortPrompt(TextPrompt("hi"))
    assert make("llama", templates.LLAMA).map_messages(text, [1]) == NO_MESSAGES
