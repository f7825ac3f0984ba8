"""Requests that killed workers: refused at once when the client asks them again.

Claude Code asks again without `stream` when a stream fails, so a request is known by its prompt.
"""

from __future__ import annotations

import msgspec

from protocol.messages import Submit
from service.api.messages.format import MessagesFormat
from service.api.messages.request import MessagesRequest
from service.api.messages.writer import MessageWriter
from service.errors import InvalidRequest, MlxdError, WorkerCrashed
from service.generation.dialect import ResponseHeader
from service.inflight.blamed_bodies import BlamedBodies
from service.store.encoded_thinking import EncodedThinking

REFUSAL = "This request crashed the worker each time it ran, so that it is not tried again now."


class BlamedPrompt:
    """What shapes the work of one request of `owner`."""

    def __init__(self, blamed: BlamedBodies, owner: str) -> None:
        self._blamed = blamed
        self._owner = owner
        self._submit: Submit | None = None

    def refuse_known(self, submit: Submit) -> None:
        """Refuse a request that killed a worker in the last minutes.

        Raises:
            InvalidRequest: it did.
        """
        self._submit = submit
        if len(self._blamed) and self._blamed.known(self._owner, to_bytes(submit)):
            raise InvalidRequest(REFUSAL, code="invalid_prompt")

    def record(self, error: Exception) -> None:
        """Remember the request if it has killed a worker."""
        if isinstance(error, WorkerCrashed) and self._submit is not None:
            self._blamed.add(self._owner, to_bytes(self._submit))


class GuardedFormat(MessagesFormat):
    """The dialect for one request, which it refuses or remembers."""

    def __init__(self, thinking: EncodedThinking, prompt: BlamedPrompt) -> None:
        super().__init__(thinking)
        self._prompt = prompt

    def to_submits(self, request: MessagesRequest, model: str) -> list[Submit]:
        submits = super().to_submits(request, model)
        self._prompt.refuse_known(submits[0])
        return submits

    def to_writer(self, request: MessagesRequest, header: ResponseHeader) -> MessageWriter:
        return GuardedWriter(request, header, self._thinking, self._prompt)

    def explain(self, error: MlxdError) -> MlxdError:
        self._prompt.record(error)
        return super().explain(error)


class GuardedWriter(MessageWriter):
    """Writes a stream, and remembers its request if that has killed a worker."""

    def __init__(
        self,
        request: MessagesRequest,
        header: ResponseHeader,
        thinking: EncodedThinking,
        prompt: BlamedPrompt,
    ) -> None:
        super().__init__(request, header, thinking)
        self._prompt = prompt

    def fail(self, error: Exception) -> bytes:
        self._prompt.record(error)
        return super().fail(error)


def to_bytes(submit: Submit) -> bytes:
    """What shapes the work: neither the seed nor the limits of the answer."""
    return msgspec.msgpack.encode([submit.model, submit.prompt, submit.grammar, submit.calls])
