"""Decodes one sequence's token ids to text, and holds incomplete characters back.

Byte-level and SentencePiece vocabularies map each token to bytes, which an incremental UTF-8
decoder joins: a character that spans several tokens is released whole, and bytes that are not
UTF-8 become U+FFFD. Other vocabularies use mlx-lm's own streaming detokenizer.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper

SENTENCEPIECE_SPACE = "\u2581"


class Detokenizer(Protocol):
    """Decodes one sequence, token by token."""

    @property
    def in_character(self) -> bool:
        """Whether the last token is known to end inside a character."""

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""

    def flush(self) -> str:
        """The text held back; an incomplete character becomes U+FFFD."""


# The arguments: whether to drop one leading space, and the tokens that are not shown.
DetokenizerFactory = Callable[[bool, Container[int]], Detokenizer]


class ByteDetokenizer:
    """Decodes tokens to bytes and bytes to text."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.in_character = False

    def push(self, token: int) -> str:
        data = self._bytes_of(token)
        if data.isascii() and not self.in_character:
            return data.decode("ascii")
        text = self._decoder.decode(data)
        self.in_character = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class MlxLmDetokenizer:
    """mlx-lm's detokenizer, for vocabularies whose tokens do not map to bytes."""

    in_character = False

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._streaming = tokenizer.detokenizer

    def push(self, token: int) -> str:
        self._streaming.add_token(token)
        segment: str = self._streaming.last_segment
        return segment

    def flush(self) -> str:
        self._streaming.finalize()
        segment: str = self._streaming.last_segment
        return segment


class LeadingSpaceStripper:
    """Drops one leading space, as mlx-lm's detokenizers do.

    A chat answer begins a turn, so the vocabulary adds that space, not the model. A completion
    continues the prompt's text and keeps it. The tokens of `hidden` are not shown, so the text
    after them is the first.
    """

    def __init__(self, inner: Detokenizer, hidden: Container[int] = ()) -> None:
        self._inner = inner
        self._hidden = hidden
        self._started = False

    @property
    def in_character(self) -> bool:
        return self._inner.in_character

    def push(self, token: int) -> str:
        text = self._inner.push(token)
        return text if self._started or token in self._hidden else self._strip(text)

    def flush(self) -> str:
        return self._strip(self._inner.flush())

    def _strip(self, text: str) -> str:
        if self._started or not text:
            return text
        self._started = True
        return text.removeprefix(" ")


class TokenBytes:
    """The bytes of each token of one vocabulary, cached."""

    def __init__(self, tokenizer: TokenizerWrapper, piece_bytes: Callable[[str], bytes]) -> None:
        self._tokenizer = tokenizer
        self._piece_bytes = piece_bytes
        self._added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self._cache: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        data = self._cache.get(token)
        if data is None:
            data = self._cache[token] = self._look_up(token)
        return data

    def _look_up(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            return str(added.content).encode()
        # Models pad their vocabulary beyond the tokenizer's; a padding id has no text.
        piece = self._tokenizer.convert_ids_to_tokens(token)
        return self._piece_bytes(piece) if piece is not None else b""


def make_detokenizers(tokenizer: TokenizerWrapper) -> DetokenizerFactory:
    """A factory of detokenizers, one for each sequence, for this tokenizer's vocabulary."""
    make = make_unstripped_detokenizers(tokenizer)
    return lambda strip, hidden: LeadingSpaceStripper(make(), hidden) if strip else make()


def make_unstripped_detokenizers(tokenizer: TokenizerWrapper) -> Callable[[], Detokenizer]:
    """A factory of detokenizers that keep leading spaces."""
    decode = piece_decoder(tokenizer)
    if decode is None:
        return lambda: MlxLmDetokenizer(tokenizer)
    bytes_of = TokenBytes(tokenizer, decode)
    return lambda: ByteDetokenizer(bytes_of)


def make_token_bytes(tokenizer: TokenizerWrapper) -> Callable[[int], bytes]:
    """A function from a token to its bytes; approximate where tokens do not map to bytes."""
    decode = piece_decoder(tokenizer)
    if decode is None:
        return lambda token: str(tokenizer.decode([token])).encode()
    return TokenBytes(tokenizer, decode)


def piece_decoder(tokenizer: TokenizerWrapper) -> Callable[[str], bytes] | None:
    """The function from a token's string to its bytes; None if the vocabulary has no known one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    steps = decoder_steps(json.loads(backend.decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level_decoder()
    if "ByteFallback" in kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return sentencepiece_bytes
    if kinds == ["Metaspace"] and steps[0]["replacement"] == SENTENCEPIECE_SPACE:
        return sentencepiece_bytes
    return None


def decoder_steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a tokenizer's decoder."""
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def byte_level_decoder() -> Callable[[str], bytes]:
    """Decodes GPT-2's byte-level alphabet, in which a printable character stands for each byte."""
    byte_of = {character: byte for byte, character in byte_level_alphabet().items()}

    def decode(piece: str) -> bytes:
        try:
            return bytes(byte_of[character] for character in piece)
        except KeyError:
            return piece.encode()

    return decode


def byte_level_alphabet() -> dict[int, str]:
    """Each byte's character: itself if printable in Latin-1, else the next one from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(0x100) if byte not in set(printable))
    alphabet = {byte: chr(byte) for byte in printable}
    return alphabet | {byte: chr(0x100 + index) for index, byte in enumerate(others)}


def sentencepiece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece token: `<0xE2>` is that byte, U+2581 is a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SENTENCEPIECE_SPACE, " ").encode()
