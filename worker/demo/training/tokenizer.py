"""The demo model's tokenizer: byte-level BPE with single digits and separate spaces.

Only tokens of the most common words include the space before them. Any other word has
the same tokens after a space, a quotation mark or an underscore, so names, tools and
arguments can be copied token by token.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from worker.demo.training.corpus import mixture, tools, words
from worker.demo.training.corpus.document import Document, Passage

VOCABULARY = 1536
CONTEXT_TOKENS = 2048
TRAINING_SHARDS = 6
TEMPLATE_NAME = "chat_template.jinja"

BEGIN_TEXT, END_TEXT = "<|begin_of_text|>", "<|end_of_text|>"
BEGIN_HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
END_TURN, PAD = "<|eot_id|>", "<|pad|>"
SPECIAL = (BEGIN_TEXT, END_TEXT, BEGIN_HEADER, END_HEADER, END_TURN, PAD)
MARKS = ("<tool_call>", "</tool_call>")  # one token each, but part of the visible text

COMMON_WORDS = 320
_COPIED = {*words.THINGS, *words.ANIMALS, *words.COLOURS, *tools.SUBJECTS}
_PIECES = (
    r" (?:{common})(?!\p{{L}})|\p{{N}}|\p{{Lu}}\p{{Ll}}*|\p{{Ll}}+|\p{{Lo}}+"
    r"| ?[^\s\p{{L}}\p{{N}}]{{1,6}}|\s+"
)


def train(seed: int) -> Tokenizer:
    """Learn the merges from the first shards of the corpus."""
    texts = list(_plain_texts(seed))
    pieces = _PIECES.format(common="|".join(_common_words(texts)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pieces), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL, *MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in MARKS])
    begin = (BEGIN_TEXT, tokenizer.token_to_id(BEGIN_TEXT))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{BEGIN_TEXT} $A", special_tokens=[begin]),
    ])  # fmt: skip
    return tokenizer


def _common_words(texts: list[str]) -> list[str]:
    counts = Counter(word for text in texts for word in re.findall(r" ([a-z]+)", text))
    return [w for w, _ in counts.most_common(2 * COMMON_WORDS) if w not in _COPIED][:COMMON_WORDS]


def _plain_texts(seed: int) -> Iterator[str]:
    for number in range(TRAINING_SHARDS):
        for document in mixture.shard(seed, number):
            if isinstance(document, Passage):
                yield document.text
                continue
            yield from (f"{m['role']}\n\n" for m in document.messages)
            yield from (str(m["content"]) for m in document.messages)
            yield from (_compact(m["tool_calls"]) for m in document.messages if "tool_calls" in m)
            yield from ("Tools:\n" + _compact(tool["function"]) for tool in document.tools)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json beside the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_TOKENS,
        "bos_token": BEGIN_TEXT,
        "eos_token": END_TURN,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "tool_parser_type": "json_tools",
        "chat_template": (folder / TEMPLATE_NAME).read_text(),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The saved tokenizer with its chat template."""
    loaded = PreTrainedTokenizerFast.from_pretrained(str(folder))
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def render(tokenizer: PreTrainedTokenizerFast, document: Document) -> str:
    """The document as the one string that the model reads in training."""
    if isinstance(document, Passage):
        return f"{BEGIN_TEXT}{document.text}{END_TEXT}"
    rendered = tokenizer.apply_chat_template(
        document.messages, tools=document.tools or None, tokenize=False
    )
    assert isinstance(rendered, str)
    return rendered
