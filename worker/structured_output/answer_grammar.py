"""The grammar of a whole answer: reasoning, then calls or a text of the client's format."""

from __future__ import annotations

import msgspec

from protocol.grammars import Grammar
from protocol.structs import Message


class AnswerGrammar(Message, frozen=True):
    """A text of `reasoning` and one of `answer`, both in llguidance's Lark.

    In `answer`, `@format` stands for a text of `format`. Reasoning may be empty.
    """

    reasoning: str
    answer: str
    format: Grammar | None = None

    @property
    def trials(self) -> list[AnyGrammar]:
        """What a sample is drawn of before the answer counts as possible to enforce.

        Random reasoning does not end, so a sample of the whole would have nothing else.
        """
        parts: list[AnyGrammar] = [] if self.format is None else [self.format]
        return [*parts, msgspec.structs.replace(self, reasoning="")]


AnyGrammar = Grammar | AnswerGrammar
