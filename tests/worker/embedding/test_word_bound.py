"""The bound of words is never above the tokens of a text, and refuses what is far too long."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from tests.worker.embedding.opening import write_sample
from worker.embedding.texts import EmbeddingTexts, open_texts
from worker.embedding.word_bound import WordBound

WORDS = st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=60)
PIECES = st.lists(
    st.one_of(
        WORDS, st.sampled_from(["[MASK]", "</s>", "a b", "\t\n", "\x00", "a\u0301", "水は", "!?"])
    ),
    max_size=20,
)


PIECE_CHARS = string.ascii_letters + string.digits + string.punctuation
SPACE = "\u2581"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTexts:
    """BERT's pieces, through all that makes rows of texts."""
    return open_texts(write_sample("bert-mean", tmp_path_factory.mktemp("bert")))


def make_unigram(*, all_printable: bool = True, normalizer: Any = None, split: bool = True) -> Any:
    """SentencePiece's unigrams, as XLM-RoBERTa has them."""
    chars = PIECE_CHARS if all_printable else string.ascii_letters
    pieces = ["<unk>", SPACE, *chars, f"{SPACE}water", "ter", "水", "é"]
    tokenizer = Tokenizer(Unigram([(piece, -float(n)) for n, piece in enumerate(pieces)], unk_id=0))
    tokenizer.normalizer = normalizer or normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@given(pieces=PIECES)
def test_a_text_of_bert_has_at_least_so_many_tokens(
    pieces: list[str], bert: EmbeddingTexts
) -> None:
    text = "".join(pieces)
    [row] = bert.tokenize([text])
    assert bert.at_least(text) <= len(row)


@pytest.mark.parametrize("all_printable", [True, False])
@given(pieces=PIECES)
def test_a_text_of_unigrams_has_at_least_so_many_tokens(
    all_printable: bool, pieces: list[str]
) -> None:
    text, tokenizer = "".join(pieces), make_unigram(all_printable=all_printable)
    row = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert WordBound(tokenizer).at_least(text) <= len(row)


def test_words_and_the_longest_piece_bound_unigrams() -> None:
    assert WordBound(make_unigram()).at_least("a " * 1000) == 1000
    assert WordBound(make_unigram()).at_least("a" * 1200) == 200
    assert WordBound(make_unigram(all_printable=False)).at_least("!" * 1200) == 1


def test_a_line_break_parts_no_words_where_only_spaces_do() -> None:
    text = "0\n0\n0"
    tokenizer = make_unigram(all_printable=False)
    assert WordBound(tokenizer).at_least(text) == 1
    whitespace = make_unigram(all_printable=False)
    whitespace.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    assert WordBound(whitespace).at_least(text) == 3
    assert len(whitespace(text)["input_ids"]) >= 3


def test_nothing_is_proven_where_words_may_be_joined_or_dropped() -> None:
    drops = make_unigram(normalizer=normalizers.Replace("a", ""))
    for tokenizer in (drops, make_unigram(split=False)):
        assert WordBound(tokenizer).at_least("a " * 1000) == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("word " * 1000, 1000), ("!" * 1000, 1000), ("水" * 1000, 1000), ("\x00 " * 1000, 0), ("", 0)],
)
def test_words_punctuation_and_ideographs_of_bert_are_counted(
    text: str, tokens: int, bert: EmbeddingTexts
) -> None:
    assert bert.at_least(text) == tokens
