"""Texts to the token ids of rows, as the model's tokenizer and prompts make them.

Runs off the device thread with a tokenizer of its own, and calls no MLX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers import AutoTokenizer

from worker.embedding.facts import EmbeddingFacts, EmbeddingSettings
from worker.embedding.model_folder import read_facts
from worker.embedding.sentence_transformers import read_length_file
from worker.embedding.word_bound import WordBound
from worker.embedding.yes_no import YesNoPrompt, find_answers
from worker.folder.remote_code import has_tokenizer_code, needs_trust

# Tokenizers without a limit state a number of this size.
NO_LIMIT_TOKENS = 10**9
# What tokenizers give besides the ids, if their model is to know the parts of a pair.
TOKEN_TYPES = "token_type_ids"

Bound = Callable[[str], int]


class EmbeddingTexts:
    """Makes the rows of one model. One thread at a time may use it."""

    def __init__(
        self,
        facts: EmbeddingFacts,
        tokenizer: Any,
        *,
        lower_case: bool = False,
        byte_bound: Bound | None = None,
    ) -> None:
        self.facts = facts
        self._tokenizer = tokenizer
        self._lower_case = lower_case
        self._bounds = [WordBound(tokenizer).at_least, *([byte_bound] if byte_bound else [])]
        self._yes_no = None if facts.answers is None else YesNoPrompt(self._encode_plain)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, as transformers has it."""
        return self._tokenizer

    def at_least(self, text: str) -> int:
        """A number of tokens that a text has at least, without its tokenization; 0: not known."""
        return max(bound(self._as_written(text)) for bound in self._bounds)

    def tokenize(self, texts: Sequence[str], prompt: str | None = None) -> list[list[int]]:
        """The rows of texts, each behind the `prompt`, with the tokens that the model adds.

        Control tokens in a text stay text. A row may be longer than `max_tokens`.

        Raises:
            ValueError: the tokenizer gives a token that the model does not have.
        """
        written = [self._as_written(f"{prompt or ''}{text}") for text in texts]
        rows: list[list[int]] = self._tokenizer(
            written, truncation=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return [self._checked(row) for row in rows]

    def pair(self, query: str, document: str, instruction: str | None = None) -> list[int]:
        """The row of a query and a document; `instruction` is for rerankers that read one.

        Raises:
            ValueError: as `tokenize`.
        """
        if self._yes_no is not None:
            return self._checked(self._yes_no.row(query, document, instruction))
        query, document = self._as_written(query), self._as_written(document)
        row: list[int] = self._tokenizer(
            query, document, truncation=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return self._checked(row)

    def prompt_of(self, name: str | None) -> str | None:
        """The prompt with this name, else the model's default one; None without.

        Raises:
            KeyError: the model has no prompt of this name.
        """
        name = name or self.facts.default_prompt
        return None if name is None else self.facts.prompts[name]

    def _encode_plain(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text alone; with `special` its control tokens are ones."""
        ids: list[int] = self._tokenizer(
            text,
            add_special_tokens=False,
            truncation=False,
            split_special_tokens=not special,
            verbose=False,
        )["input_ids"]
        return ids

    def _checked(self, row: list[int]) -> list[int]:
        """A row whose tokens the model has: others would read beyond its weights."""
        largest, size = max(row, default=0), self.facts.vocabulary_size
        if largest >= size > 0:
            raise ValueError(f"the tokenizer gives the token {largest}, and the model has {size}")
        return row

    def _as_written(self, text: str) -> str:
        return text.lower() if self._lower_case else text


def open_texts(
    folder: Path,
    settings: EmbeddingSettings | None = None,
    *,
    trusted: bool = False,
    byte_bound: Bound | None = None,
) -> EmbeddingTexts:
    """The tokenizer and the facts of a model's folder.

    `byte_bound` is a number of tokens that a text has at least, by its bytes.

    Raises:
        NotAnEmbeddingModel: it gives no vectors and no scores, or in a way that is not computed.
        RemoteCodeError: its tokenizer is code that may not run.
        Exception: the tokenizer cannot be read.
    """
    settings = settings or EmbeddingSettings()
    # Before the tokenizer, which says less of why a folder cannot be used.
    read_facts(folder, settings)
    if not trusted and has_tokenizer_code(folder) and not has_plain_tokenizer(folder):
        raise needs_trust("its tokenizer has code of its own")
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=trusted
    )
    limit = tokenizer.model_max_length
    known = limit if isinstance(limit, int) and 0 < limit < NO_LIMIT_TOKENS else None
    facts = read_facts(folder, settings, tokenizer_limit=known)
    if TOKEN_TYPES in tokenizer.model_input_names:
        facts = msgspec.structs.replace(facts, separator=tokenizer.sep_token_id)
    if facts.kind == "rerank" and facts.architecture == "decoder":
        answers = find_answers(tokenizer, folder)
        facts = msgspec.structs.replace(facts, answers=answers)
    lower_case = read_length_file(folder).get("do_lower_case") is True
    return EmbeddingTexts(facts, tokenizer, lower_case=lower_case, byte_bound=byte_bound)


def has_plain_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer can be read without running code."""
    return (folder / "tokenizer.json").exists()
