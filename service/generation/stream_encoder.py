"""The streams of chat completions and completions: one chunk for each event.

Most frames of a stream differ only in their text, so the JSON before and after the text is
encoded once per sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from protocol.events import Event, Finished, Progress, Started, TextDelta
from service.errors import encode_error
from service.generation.answers import UsageCounter, sum_usage
from service.generation.dialect import ResponseHeader
from service.generation.event_stream import KEEP_ALIVE, frame
from service.schema.parameters import GenerationRequest
from service.schema.usage import PromptProgress, Usage

DONE = frame(b"[DONE]")
# Placeholder for the text: encoded, it occurs nowhere else in a frame.
PLACEHOLDER = "\x00"

RequestT = TypeVar("RequestT", bound=GenerationRequest)
ChoiceT = TypeVar("ChoiceT", bound=msgspec.Struct)
RequestT_contra = TypeVar("RequestT_contra", bound=GenerationRequest, contravariant=True)

# The usage of a stream's event: UNSET without `include_usage`, else null until the last event;
# the usage so far with `continuous_usage_stats`.
ChunkUsage = Usage | UnsetType | None


class ChunkFormat(Protocol[RequestT_contra, ChoiceT]):
    """The chunks of one endpoint."""

    def to_choice(self, request: RequestT_contra, index: int, event: Event) -> ChoiceT | None:
        """The event as a choice of a stream; None where the client gets nothing."""

    def to_chunk(
        self,
        request: RequestT_contra,
        header: ResponseHeader,
        choices: list[ChoiceT],
        usage: ChunkUsage,
        progress: PromptProgress | UnsetType = UNSET,
    ) -> msgspec.Struct:
        """One event of a stream."""


class ProgressReports:
    """How far the prefill of each prompt is; of several answers to one the first reports."""

    def __init__(self, answers_per_prompt: int) -> None:
        self._answers_per_prompt = answers_per_prompt
        self._last: dict[int, PromptProgress] = {}

    def report(self, index: int, event: Started | Progress) -> PromptProgress | None:
        """The progress to report; None if it is no more than before.

        After a crash the prefill begins again, but what was reported stays.
        """
        if index % self._answers_per_prompt:
            return None
        match event:
            case Started(prompt_tokens=total, cached_tokens=cached):
                report = PromptProgress(total, cached, processed=cached, time_ms=0)
            case Progress(done=done, elapsed_ms=elapsed_ms):
                last = self._last[index]
                processed = min(done, last.total)
                if processed <= last.processed:
                    return None
                report = PromptProgress(
                    last.total, last.cache, processed, max(round(elapsed_ms), last.time_ms)
                )
        self._last[index] = report
        return report


class ChunkWriter(Generic[RequestT, ChoiceT]):
    """Writes a stream of chunks, which ends with `[DONE]` or with an error."""

    def __init__(
        self,
        chunk_format: ChunkFormat[RequestT, ChoiceT],
        request: RequestT,
        header: ResponseHeader,
    ) -> None:
        self._format = chunk_format
        self._request = request
        self._header = header
        self._no_usage: ChunkUsage = None if request.include_usage else UNSET
        # With it the frames of a text differ in more than the text.
        self._counter = UsageCounter(request.candidates) if request.continuous_usage else None
        self._encoder = msgspec.json.Encoder()
        self._progress = ProgressReports(request.candidates) if request.reports_progress else None
        # For each sequence: the bytes of a frame before and after its text.
        self._prefix_suffix: dict[int, tuple[bytes, bytes]] = {}

    def begin(self) -> bytes:
        return b""

    def encode(self, index: int, event: Event) -> bytes:
        if self._progress is not None and isinstance(event, Started | Progress):
            return self._encode_progress(index, event, self._progress.report(index, event))
        if self._counter is not None:
            self._counter.add(index, event)
        elif isinstance(event, TextDelta) and is_plain(event):
            return self._encode_text(index, event.text) if event.text else b""
        choice = self._format.to_choice(self._request, index, event)
        return b"" if choice is None else self._encode([choice])

    def keep_alive(self) -> bytes:
        return KEEP_ALIVE

    def finish(self, ends: Sequence[Finished]) -> bytes:
        if not self._request.include_usage:
            return DONE
        return self._encode([], sum_usage(ends, self._request.candidates)) + DONE

    def fail(self, error: Exception) -> bytes:
        return frame(encode_error(error))

    def _encode_progress(
        self, index: int, event: Started | Progress, progress: PromptProgress | None
    ) -> bytes:
        """A chunk with the progress of the prefill; the first one begins the answer, too."""
        if self._counter is not None:
            self._counter.add(index, event)
        choice = self._format.to_choice(self._request, index, event)
        if progress is None:
            is_shown = choice is not None and isinstance(event, Started)
            return self._encode([choice]) if choice is not None and is_shown else b""
        if choice is None:
            # An answer of this format begins with its first text.
            start = Progress(event.id, 0, 0)
            choice = self._format.to_choice(self._request, index, start)
        assert choice is not None
        return self._encode([choice], progress=progress)

    def _encode_text(self, index: int, text: str) -> bytes:
        parts = self._prefix_suffix.get(index)
        if parts is None:
            parts = self._prefix_suffix[index] = self._split(index)
        return parts[0] + self._encoder.encode(text) + parts[1]

    def _split(self, index: int) -> tuple[bytes, bytes]:
        delta = TextDelta(id=0, text=PLACEHOLDER, tokens=[])
        choice = self._format.to_choice(self._request, index, delta)
        assert choice is not None
        encoded_placeholder = self._encoder.encode(PLACEHOLDER)
        prefix, _, suffix = self._encode([choice]).partition(encoded_placeholder)
        return prefix, suffix

    def _encode(
        self,
        choices: list[ChoiceT],
        usage: Usage | None = None,
        progress: PromptProgress | UnsetType = UNSET,
    ) -> bytes:
        shown: ChunkUsage = self._no_usage
        if usage is not None:
            shown = usage
        elif self._counter is not None:
            shown = self._counter.usage
        chunk = self._format.to_chunk(self._request, self._header, choices, shown, progress)
        return frame(self._encoder.encode(chunk))


def is_plain(delta: TextDelta) -> bool:
    """Whether the client gets nothing of this event but its text, as content."""
    plain = TextDelta(
        delta.id,
        delta.text,
        delta.tokens,
        settled=delta.settled,
        accepted=delta.accepted,
        rejected=delta.rejected,
    )
    return delta == plain
