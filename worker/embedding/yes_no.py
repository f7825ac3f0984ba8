"""Rerankers that answer "yes" or "no": the prompt of Qwen3-Reranker, and its answer's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from worker.embedding.facts import NotAnEmbeddingModel
from worker.embedding.sentence_transformers import LOGIT_SCORE, read_modules

YES, NO = "yes", "no"
# Qwen3-Reranker's own, word for word: it was trained with them.
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>")


class Encode(Protocol):
    """Tokens of a text alone; with `special` its control tokens are ones."""

    def __call__(self, text: str, *, special: bool) -> list[int]: ...


class YesNoPrompt:
    """Writes the rows of pairs. Control tokens in a query or a document stay text."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._before = encode(BEFORE, special=True)
        self._behind = encode(BEHIND, special=True)

    def row(self, query: str, document: str, instruction: str | None = None) -> list[int]:
        """The row of one pair."""
        text = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        return [*self._before, *self._encode(text, special=False), *self._behind]


def find_answers(tokenizer: Any, folder: Path) -> tuple[int, int]:
    """The tokens of "yes" and "no".

    Raises:
        NotAnEmbeddingModel: the vocabulary is not that of a Qwen3-Reranker, or the folder names
            other answers.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (*CONTROL_TOKENS, YES, NO) if token not in vocabulary]
    if missing:
        raise NotAnEmbeddingModel(
            f"the decoder's vocabulary has no {missing[0]!r}; of decoders that rerank only those "
            "with Qwen3-Reranker's prompt and its answers yes and no are known"
        )
    answers = vocabulary[YES], vocabulary[NO]
    for module in read_modules(folder) or ():
        named = module.config.get("true_token_id"), module.config.get("false_token_id")
        if module.kind == LOGIT_SCORE and named != answers:
            raise NotAnEmbeddingModel("it scores other answers than yes and no")
    return answers
