"""Control tokens in what a client has written, which stay text in its prompt.

transformers marks them before it renders a conversation, and then tokenizes the text part by part
(`sanitize_control_tokens`). Without any of them the text is that of a plain rendering.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What transformers 5 puts around them, and takes out of what a client has written.
MARKERS = ("\U000f0000", "\U000f0001")


class ControlTexts:
    """The control tokens of one tokenizer and one template, or somewhat more than those."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        named = getattr(tokenizer, "chat_control_tokens", None) or ()
        texts = [
            token.content
            for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
            if token.special or token.content in named or token.content in template
        ]
        texts = [text for text in texts if text and not text.isspace()]
        self._pattern = re.compile("|".join(map(re.escape, (*texts, *MARKERS))))

    def occur_in(self, *values: Any) -> bool:
        """Whether any is in a text in these values: messages, tools, variables of the template."""
        return self._pattern.search("\0".join(texts_of(values))) is not None


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a value, at any depth, without the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_of_all(value.values())
    elif isinstance(value, list | tuple):
        yield from texts_of_all(value)


def texts_of_all(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        else:
            yield from texts_of(value)
