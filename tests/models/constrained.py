"""The grammars of one model's answers, and its answers token by token; no weights are needed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from protocol.messages import ChatPrompt, Sampling, Submit, ToolUse
from tests.models.conversations import Conversations, Message
from worker.engine.bitmask import BitMask
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.structured_output.constraint import CompiledGrammar, compile_text
from worker.structured_output.llguidance_source import to_llguidance
from worker.structured_output.vocabulary import Vocabulary

ASKED: list[Message] = [{"role": "user", "content": "Weather?"}]
# What a random answer prefers to other characters, so that it soon has all of a call.
STRUCTURE = '<>/="abc,'


class Constrained:
    """Answers of a model with this chat template to a request with these tools."""

    def __init__(self, template: str, tools: Sequence[dict[str, Any]], *, required: bool) -> None:
        self.model = Conversations(template, tools)
        config = self.model.config
        assert config.grammars.vocabulary is not None
        self.vocabulary: Vocabulary = config.grammars.vocabulary
        prompt = ChatPrompt(ASKED, tools=self.model.tools)
        calls = ToolUse(self.model.names, required)
        self.submit = Submit(1, "model", prompt, Sampling(seed=0), calls=calls)
        self.prompt = self.model.tokens(ASKED, asks=True)
        parsers = config.parsers
        grammar = parsers.answer_grammar(self.submit, self.prompt) or (
            parsers.optional_call_grammar(self.submit)
        )
        assert grammar is not None
        self.grammar: CompiledGrammar = compile_text(to_llguidance(grammar), self.vocabulary)

    def free(self) -> ToolCallConstraint:
        """The constraint of an answer that may have calls."""
        return ToolCallConstraint(
            self.model.config.parsers.create(self.submit, self.prompt), self.grammar
        )

    def accepts(self, answer: str) -> bool:
        """Whether `answer` is a whole answer of the grammar."""
        constraint = self.grammar.create_constraint()
        for token in self.model.encode(answer):
            if constraint.complete or not allows(constraint.mask(), token):
                return False
            constraint.accept(token)
        return constraint.complete or any(allows(constraint.mask(), token) for token in self._stops)

    def random_answer(self, seed: int, most: int = 400) -> str | None:
        """An answer of the grammar; None if it does not end within so many tokens."""
        random = Random(seed)
        constraint, tokens = self.grammar.create_constraint(), list[int]()
        preferred = {*self.model.encode(STRUCTURE), *range(256, self.vocabulary.size)}
        while len(tokens) < most:
            allowed = sorted(tokens_in(constraint.mask()))
            if constraint.complete:
                break
            likely = [token for token in allowed if token in preferred]
            token = random.choice(likely if likely and random.random() < 0.7 else allowed)
            if token in self._stops:
                break
            tokens.append(token)
            constraint.accept(token)
        else:
            return None
        return b"".join(map(self.model.config.token_bytes, tokens)).decode(errors="replace")

    @property
    def _stops(self) -> set[int]:
        return set(self.vocabulary.stop_token_ids)


def allows(mask: BitMask, token: int) -> bool:
    """Whether a mask allows a token."""
    return bool(mask[token // 32] >> (token % 32) & 1)


def tokens_in(mask: BitMask) -> set[int]:
    """The tokens that a mask allows."""
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())
