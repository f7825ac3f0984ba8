"""Turns one sequence's token ids into text, holding back what is not yet a whole character.

Byte-level and SentencePiece vocabularies map each token to bytes, which an
incremental UTF-8 decoder joins: a character split over tokens comes out whole,
and bytes that are no UTF-8 come out as U+FFFD. Other vocabularies use mlx-lm's
own streaming detokenizer.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper

SENTENCEPIECE_SPACE = "\u2581"


class Detokenizer(Protocol):
    """The text of one sequence, token by token."""

    def push(self, token: int) -> str:
        """The text that `token` completes, which may be none."""

    def flush(self) -> str:
        """The text still held back; incomplete characters become U+FFFD."""


# True drops one space before the first text.
DetokenizerFactory = Callable[[bool], Detokenizer]


class ByteDetokenizer:
    """Tokens to bytes to text."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # Whether the last token ended amid a character.
        self._incomplete = False

    def push(self, token: int) -> str:
        piece = self._bytes_of(token)
        if piece.isascii() and not self._incomplete:
            return piece.decode("ascii")
        text = self._decoder.decode(piece)
        self._incomplete = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WholeTextDetokenizer:
    """mlx-lm's detokenizer, for vocabularies whose tokens are not simply bytes."""

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


class WithoutLeadingSpace:
    """Drops one space before the first text, as mlx-lm's detokenizers do.

    Chat answers begin a turn, so that space belongs to the vocabulary and not to
    the answer. Completions continue the prompt's text and keep it.
    """

    def __init__(self, inner: Detokenizer) -> None:
        self._inner = inner
        self._begun = False

    def push(self, token: int) -> str:
        return self._trim(self._inner.push(token))

    def flush(self) -> str:
        return self._trim(self._inner.flush())

    def _trim(self, text: str) -> str:
        if self._begun or not text:
            return text
        self._begun = True
        return text.removeprefix(" ")


class TokenBytes:
    """The bytes of each token of one vocabulary, looked up once each."""

    def __init__(self, tokenizer: TokenizerWrapper, piece_bytes: Callable[[str], bytes]) -> None:
        self._tokenizer = tokenizer
        self._piece_bytes = piece_bytes
        self._added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._look_up(token)
        return found

    def _look_up(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            return str(added.content).encode()
        # Models pad their vocabulary past the tokenizer's; such an id has no text.
        piece = self._tokenizer.convert_ids_to_tokens(token)
        return self._piece_bytes(piece) if piece is not None else b""


def make_detokenizers(tokenizer: TokenizerWrapper) -> DetokenizerFactory:
    """A factory of detokenizers, one a sequence, for this tokenizer's vocabulary."""
    make = make_plain_detokenizers(tokenizer)
    return lambda trim: WithoutLeadingSpace(make()) if trim else make()


def make_plain_detokenizers(tokenizer: TokenizerWrapper) -> Callable[[], Detokenizer]:
    """A factory of detokenizers that keep every space."""
    decode = piece_decoder(tokenizer)
    if decode is None:
        return lambda: WholeTextDetokenizer(tokenizer)
    bytes_of = TokenBytes(tokenizer, decode)
    return lambda: ByteDetokenizer(bytes_of)


def make_token_bytes(tokenizer: TokenizerWrapper) -> Callable[[int], bytes]:
    """The bytes of one token, as nearly as they are known where tokens are not simply bytes."""
    decode = piece_decoder(tokenizer)
    if decode is None:
        return lambda token: str(tokenizer.decode([token])).encode()
    return TokenBytes(tokenizer, decode)


def piece_decoder(tokenizer: TokenizerWrapper) -> Callable[[str], bytes] | None:
    """How this vocabulary writes bytes, or None where it is not known to."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    steps = decoder_steps(json.loads(backend.decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level_decoder()
    if "ByteFallback" in kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return sentencepiece_bytes
    return None


def decoder_steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The decoder as a flat list of its steps."""
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def byte_level_decoder() -> Callable[[str], bytes]:
    """GPT-2's printable stand-ins for bytes, undone."""
    byte_of = {character: byte for byte, character in byte_level_alphabet().items()}

    def decode(piece: str) -> bytes:
        try:
            return bytes(byte_of[character] for character in piece)
        except KeyError:
            return piece.encode()

    return decode


def byte_level_alphabet() -> dict[int, str]:
    """Each byte's stand-in: itself where Latin-1 prints it, else the next free one from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(0x100) if byte not in set(printable))
    alphabet = {byte: chr(byte) for byte in printable}
    return alphabet | {byte: chr(0x100 + place) for place, byte in enumerate(others)}


def sentencepiece_bytes(piece: str) -> bytes:
    """A SentencePiece token: `<0xE2>` is that byte, and U+2581 is a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SENTENCEPIECE_SPACE, " ").encode()
