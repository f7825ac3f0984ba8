"""The request for a model's tokenizer alone; `protocol.events.Tokenized` is its result."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.structs import Message

TokenStrings = Literal["none", "vocabulary", "pieces"]


class Tokenize(Message, frozen=True):
    """Convert a prompt with a model's tokenizer; nothing is generated, and no weights are needed.

    `prompt` is an encoded `Prompt`, or an encoded None. A conversation or a text becomes token
    ids, with `as_text` the text that the template makes of a conversation; token ids become
    text; of None the result is the tokenizer's configuration. `param` is the request's parameter
    that has the prompt, to name it in a rejection.

    With `special_tokens` the tokenizer adds those that it begins and ends a text with. Without
    `parse_special` special tokens in a text are plain text. With `strings` each token is returned
    as its string in the vocabulary, too, or with its piece of text.
    """

    id: int
    model: str
    prompt: msgspec.Raw
    param: str = "prompt"
    as_text: bool = False
    special_tokens: bool = False
    parse_special: bool = True
    strings: TokenStrings = "none"
    client: str = ""

    @property
    def nbytes(self) -> int:
        """The size of the encoded prompt."""
        return memoryview(self.prompt).nbytes
