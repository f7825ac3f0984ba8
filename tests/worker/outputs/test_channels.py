"""Headers of Harmony's messages that tell no call: they are text, and read once."""

from __future__ import annotations

import pytest

from tests.worker.tool_calls.answers import TOOLS
from worker.call_readers.deltas import ContentDelta
from worker.segmentation.channels import ChannelSegmenter
from worker.tool_calls.json_formats import HARMONY
from worker.tool_calls.parser import CompiledSyntax

HEADER = "<|channel|>commentary to=functions."


def content_of(text: str, size: int) -> str:
    """The content of an answer that arrives in parts of this size."""
    parser = ChannelSegmenter([CompiledSyntax(HARMONY, TOOLS, ["get_weather", "get"])])
    deltas = [
        each for at in range(0, len(text), size) for each in parser.push(text[at : at + size])
    ]
    deltas += parser.finish(truncated=True)
    assert all(isinstance(delta, ContentDelta) for delta in deltas)
    return "".join(d.text for d in deltas if isinstance(d, ContentDelta) and d.kind == "content")


@pytest.mark.parametrize("size", [1, 4, 10_000])
def test_a_call_of_an_undeclared_tool_is_text(size: int) -> None:
    text = f'{HEADER}swap <|constrain|>json<|message|>{{"city": 1}}'
    assert content_of(text, size) == text


@pytest.mark.parametrize("size", [1, 4, 10_000])
def test_a_header_without_a_message_ends_at_its_limit(size: int) -> None:
    assert HEADER in content_of(f"{HEADER}get_weather" * 40, size)


@pytest.mark.parametrize(("text", "name"), [("", ""), ("get", "get"), ("get_wea", "get_wea")])
def test_the_name_in_a_header_begins_after_its_prefix(text: str, name: str) -> None:
    parser = ChannelSegmenter([CompiledSyntax(HARMONY, TOOLS, ["get_weather", "get"])])
    begun = []
    for part in (HEADER[:-1], "." + text, " "):
        parser.push(part)
        begun.append(parser.partial_name.text if parser.partial_name else None)
    assert begun == [None, name, None]
