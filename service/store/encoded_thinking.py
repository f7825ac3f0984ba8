"""A model's thinking as an opaque text: `encrypted_content` of Responses, `signature` of Messages.

The client keeps it and sends it back, so that nothing is stored here. It is encoded and signed,
not secret: any holder can read it. `mlxd1.` + base64url(zlib(msgpack(model, text))) + `.` +
base64url(HMAC-SHA256 of what is before the last point). It is verified before it is inflated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable

import msgspec

PREFIX = "mlxd1."
MAX_DECODED_BYTES = 256 * 1024
# Incompressible content grows by less than this in zlib, and by a third in base64.
MAX_ENCODED_CHARS = len(PREFIX) + (MAX_DECODED_BYTES + 1024) * 4 // 3 + 64
# Names the use of the key, so that no other use of it can make a valid text.
PURPOSE = b"mlxd encoded thinking 1:"


class DecodedThinking(msgspec.Struct, frozen=True, array_like=True):
    """The thinking, and the id of the model whose it is."""

    model: str
    text: str


class EncodedThinking:
    """Encodes and decodes with the key of this installation, which is read at the first use."""

    def __init__(self, load_key: Callable[[], bytes]) -> None:
        self._load_key = load_key
        self._key: bytes | None = None

    def encode(self, model: str, text: str) -> str:
        """The opaque text; empty for more than 256 KiB, whose plain text alone is sent back."""
        data = msgspec.msgpack.encode(DecodedThinking(model, text))
        if len(data) > MAX_DECODED_BYTES:
            return ""
        signed = PREFIX + to_base64(zlib.compress(data))
        return f"{signed}.{to_base64(self._sign(signed))}"

    def decode(self, text: str) -> DecodedThinking | None:
        """What `encode` was given; None for a foreign text: not ours, or changed on its way."""
        if len(text) > MAX_ENCODED_CHARS or not (text.isascii() and text.startswith(PREFIX)):
            return None
        signed, _, signature = text.rpartition(".")
        if not hmac.compare_digest(signature, to_base64(self._sign(signed))):
            return None
        return inflate(from_base64(signed.removeprefix(PREFIX)))

    def _sign(self, signed: str) -> bytes:
        if self._key is None:
            self._key = self._load_key()
        return hmac.digest(self._key, PURPOSE + signed.encode(), hashlib.sha256)


def inflate(data: bytes) -> DecodedThinking | None:
    """The content of verified data; None where it is more than the bound, or no thinking."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, MAX_DECODED_BYTES)
        if not inflater.eof:
            return None
        return msgspec.msgpack.decode(content, type=DecodedThinking)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def to_base64(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64(text: str) -> bytes:
    """The bytes of URL-safe base64 without padding; none where it is not valid."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
