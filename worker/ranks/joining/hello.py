"""What ranks say to each other before the first plan."""

from __future__ import annotations

import msgspec

from protocol.ranks import Backend
from protocol.structs import Message


class Hello(Message, frozen=True):
    """The first message of a rank to rank 0.

    `versions` are of what computes there, by name. `addresses` are those at which the rank's ring
    can listen, as host:port. `budget_bytes` is what its models may use.
    """

    rank: int
    versions: dict[str, str]
    backends: list[Backend]
    addresses: list[str]
    budget_bytes: int


class Welcome(Message, frozen=True):
    """Rank 0's answer, once all ranks are there: what connects them.

    `ring` are the addresses of each rank's ring. Other backends meet at `coordinator`, an address
    of rank 0 as host:port. A rank that is silent for `silence_s` is lost.
    """

    backend: Backend
    ring: list[list[str]]
    coordinator: str
    silence_s: float


class Refusal(Message, frozen=True):
    """Rank 0's other answer: why the ranks cannot work together."""

    reason: str


Answer = Welcome | Refusal

encode = msgspec.msgpack.Encoder().encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
