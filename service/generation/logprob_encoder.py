"""Log-probabilities in OpenAI's shapes, sent with the text of their tokens."""

from __future__ import annotations

import msgspec

from protocol.events import Event, TextDelta, TokenLogprob
from service.schema.logprobs import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob


class LogprobGate:
    """Holds back log-probabilities until the text of their tokens is released.

    Tokens whose text a stop string cut off are never released.
    """

    def __init__(self) -> None:
        # By sequence id: the tokens held back, and the number released.
        self._held: dict[int, list[TokenLogprob]] = {}
        self._released: dict[int, int] = {}

    def admit(self, event: Event) -> Event:
        """The event with the log-probabilities of the tokens whose text is released by now."""
        if not isinstance(event, TextDelta) or not (event.logprobs or event.id in self._held):
            return event
        held = self._held.setdefault(event.id, [])
        held += event.logprobs
        released = self._released.get(event.id, 0)
        count = event.settled - released
        ready, held[:] = held[:count], held[count:]
        self._released[event.id] = released + len(ready)
        return msgspec.structs.replace(event, logprobs=ready)


def to_chat_logprobs(tokens: list[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs([to_chat_logprob(token) for token in tokens])


def to_chat_logprob(token: TokenLogprob) -> ChatTokenLogprob:
    """One token. Incomplete characters are U+FFFD in `token` and exact in `bytes`."""
    return ChatTokenLogprob(
        token=token.token.decode(errors="replace"),
        logprob=token.logprob if token.logprob is not None else 0.0,
        bytes=list(token.token),
        top_logprobs=[
            TopLogprob(top.token.decode(errors="replace"), top.logprob, list(top.token))
            for top in token.top
        ],
    )


def to_completion_logprobs(tokens: list[TokenLogprob]) -> CompletionLogprobs:
    """The log-probabilities of a completion. The sampled token is among its own alternatives."""
    return CompletionLogprobs(
        tokens=[printable(token.token) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[alternatives(token) for token in tokens],
        text_offset=[token.offset for token in tokens],
    )


def alternatives(token: TokenLogprob) -> dict[str, float] | None:
    """Token -> log-probability, highest first; None for a prompt's first token."""
    if token.logprob is None:
        return None
    logprobs = {printable(top.token): top.logprob for top in token.top}
    logprobs.setdefault(printable(token.token), token.logprob)
    return logprobs


def printable(token: bytes) -> str:
    """A token's text, or its bytes as escapes if they are not valid UTF-8."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
