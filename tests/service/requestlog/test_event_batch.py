"""`count_events` counts a batch in one pass: the counts equal naive sums over the events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.events import (
    ArgumentsDelta,
    Event,
    Failed,
    Finished,
    PromptLogprobs,
    Rejected,
    Started,
    TextDelta,
    ToolCallStarted,
)
from service.requestlog.event_batch import EventBatch, count_events
from tests.service.records import make_finished

ids = st.integers(1, 4)
counts = st.integers(0, 5)
texts = st.text("ab", max_size=3)
started = st.builds(Started, id=ids, prompt_tokens=counts)
deltas = st.builds(TextDelta, id=ids, text=texts, tokens=st.lists(counts, max_size=3))
finished = st.builds(make_finished, ids, completion_tokens=counts)
rejected = st.builds(Rejected, id=ids, code=st.just("invalid_value"), message=texts)
failed = st.builds(Failed, id=ids, message=texts)
uncounted = st.one_of(
    st.builds(PromptLogprobs, id=ids, text=texts, logprobs=st.just([])),
    st.builds(ToolCallStarted, id=ids, index=counts, name=texts),
    st.builds(ArgumentsDelta, id=ids, index=counts, text=texts),
)
events_of_a_batch = st.lists(st.one_of(started, deltas, finished, rejected, failed, uncounted))


@given(events_of_a_batch)
def test_the_counts_are_the_sums_over_the_events(events: list[Event]) -> None:
    batch = count_events(events)
    prompt_tokens = [event.prompt_tokens for event in events if isinstance(event, Started)]
    tokens = [event.tokens for event in events if isinstance(event, TextDelta)]
    assert batch.prompt_tokens == sum(prompt_tokens)
    assert batch.completion_tokens == sum(map(len, tokens))


@given(events_of_a_batch)
def test_the_events_keep_their_order(events: list[Event]) -> None:
    batch = count_events(events)
    assert batch.events == events
    assert list(batch.started) == [event for event in events if isinstance(event, Started)]
    assert list(batch.finished) == [event for event in events if isinstance(event, Finished)]


@given(events_of_a_batch)
def test_the_error_is_the_first_rejection_or_failure(events: list[Event]) -> None:
    errors = [event for event in events if isinstance(event, Rejected | Failed)]
    assert count_events(events).error is (errors[0] if errors else None)


def test_a_batch_without_events_has_no_counts() -> None:
    assert count_events([]) == EventBatch(events=[])


def test_the_tokens_of_all_sequences_of_a_request_are_counted() -> None:
    batch = count_events([Started(1, 3), Started(2, 4), TextDelta(2, "b", [5, 6]), Failed(1, "x")])
    assert (batch.prompt_tokens, batch.completion_tokens) == (7, 2)
    assert batch.error == Failed(1, "x")
