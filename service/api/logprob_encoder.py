"""Log-probabilities on their way to a client: told with their tokens' text, in OpenAI's shapes."""

from __future__ import annotations

import msgspec

from protocol.messages import Event, TextDelta, TokenLogprob
from service.schema.logprobs import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob


class LogprobGate:
    """Holds tokens back until their text is released; those cut off by a stop never pass."""

    def __init__(self) -> None:
        self._held: dict[int, list[TokenLogprob]] = {}
        self._passed: dict[int, int] = {}

    def admit(self, event: Event) -> Event:
        """The event with the log-probabilities of the tokens whose text is out by now."""
        if not isinstance(event, TextDelta) or not (event.logprobs or event.id in self._held):
            return event
        held = self._held.setdefault(event.id, [])
        held += event.logprobs
        passed = self._passed.get(event.id, 0)
        free, held[:] = held[: event.settled - passed], held[event.settled - passed :]
        self._passed[event.id] = passed + len(free)
        return msgspec.structs.replace(event, logprobs=free)


def to_chat_logprobs(tokens: list[TokenLogprob]) -> ChatLogprobs:
    """As a chat answer has them."""
    return ChatLogprobs([to_chat_logprob(token) for token in tokens])


def to_chat_logprob(token: TokenLogprob) -> ChatTokenLogprob:
    """One token; bytes that are no whole character are U+FFFD in its text, exact in `bytes`."""
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
    """As a completion has them. The drawn token is always among its alternatives."""
    return CompletionLogprobs(
        tokens=[spell(token.token) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[alternatives(token) for token in tokens],
        text_offset=[token.offset for token in tokens],
    )


def alternatives(token: TokenLogprob) -> dict[str, float] | None:
    """Token -> log-probability, best first; None for a prompt's first token."""
    if token.logprob is None:
        return None
    found = {spell(top.token): top.logprob for top in token.top}
    found.setdefault(spell(token.token), token.logprob)
    return found


def spell(token: bytes) -> str:
    """A token's text, or its bytes written out where they are no whole characters."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
