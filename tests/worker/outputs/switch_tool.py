"""Two tools with a small schema, and a parser of answers that call them."""

from __future__ import annotations

from typing import Any

from worker.outputs.detokenizer import ByteDetokenizer, Detokenizer
from worker.outputs.text import Text
from worker.segmentation.segmenter import Segmenter
from worker.structured_output.vocabulary import Vocabulary
from worker.tool_calls.formats import BY_NAME
from worker.tool_calls.markers import Markers
from worker.tool_calls.parser import CompiledSyntax

NAMES = ("switch", "other")
HEADER = '<tool_call>\n{"name": "switch", "arguments": '
CALL = HEADER + '{"state": "on"}}\n</tool_call>'
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "properties": {"state": {"enum": ["on", "off"]}},
                "required": ["state"],
                "additionalProperties": False,
            },
        },
    }
    for name in NAMES
]


class CountingDetokenizer:
    """Decodes the vocabulary's tokens and keeps them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._inner: Detokenizer = ByteDetokenizer(
            lambda token: vocabulary.tokenizer.decode_bytes([token])
        )
        self.tokens: list[int] = []

    def push(self, token: int) -> str:
        self.tokens.append(token)
        return self._inner.push(token)

    @property
    def in_character(self) -> bool:
        return self._inner.in_character

    def flush(self) -> str:
        return self._inner.flush()


def make_text(detokenizer: Detokenizer, *, reasoning: bool = False) -> Text:
    """The parser of one answer; `reasoning`: it begins in a think block."""
    syntax = CompiledSyntax(BY_NAME["json_tools"], TOOLS, NAMES)
    segmenter = Segmenter(Markers("<think>", "</think>"), [syntax], reasoning=reasoning)
    return Text(detokenizer, ["stop"], segmenter, trim=True)


def tokens_of(vocabulary: Vocabulary, text: str) -> list[int]:
    """The token ids of a text with special tokens."""
    return vocabulary.tokenizer.tokenize_str(text, parse_special=True)
