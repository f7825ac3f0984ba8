"""Every message is decoded to what was encoded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import Failed, Finished, Rejected, Started, TextDelta, Tokenized, TooLong
from protocol.messages import (
    Cancel,
    ChatPrompt,
    Configure,
    Fatal,
    Loading,
    ModelsChanged,
    ModelSource,
    Ready,
    Sampling,
    Shutdown,
    Sibling,
    Step,
    Submit,
    TextPrompt,
    TokenPrompt,
    ToService,
    ToWorker,
)
from protocol.model_states import ModelInfo, ModelState
from protocol.stats import Device, Memory, Stats
from protocol.tokenization import Tokenize

texts = st.text(st.characters(exclude_categories=["Cs"]))
ids = st.integers(0, 2**53)
token_lists = st.lists(st.integers(0, 2**20))
seeds = st.integers(-(2**63), 2**63 - 1)
chats = st.builds(
    ChatPrompt, st.lists(st.fixed_dictionaries({"role": texts, "content": texts | st.none()}))
)
prompts = chats | st.builds(TextPrompt, texts) | st.builds(TokenPrompt, token_lists)
submits = st.builds(
    Submit,
    id=ids,
    model=texts,
    prompt=prompts,
    sampling=st.builds(Sampling, seeds, st.floats(0, 2), st.floats(0, 1)),
    max_tokens=st.none() | ids,
    thinking_budget=st.none() | ids,
    stop=st.lists(texts),
    resume=token_lists,
    siblings=st.lists(st.builds(Sibling, ids, seeds, token_lists)),
)
tokenizes = st.builds(
    Tokenize,
    id=ids,
    model=texts,
    prompt=(prompts | st.none()).map(lambda prompt: msgspec.Raw(msgspec.msgpack.encode(prompt))),
    param=texts,
    strings=st.sampled_from(["none", "vocabulary", "pieces"]),
)
events = st.one_of(
    st.builds(Tokenized, ids, ids, st.binary(), ids, st.binary(), st.lists(texts)),
    st.builds(Started, ids, ids, texts),
    st.builds(TextDelta, ids, texts, token_lists),
    st.builds(
        Rejected,
        id=ids,
        code=texts,
        message=texts,
        param=st.none() | texts,
        too_long=st.none() | st.builds(TooLong, ids, ids, ids),
    ),
    st.builds(Failed, ids, texts),
)


@given(submits | tokenizes | st.builds(Cancel, st.lists(ids)))
def test_the_worker_decodes_what_the_service_encodes(message: ToWorker) -> None:
    decoder = msgspec.msgpack.Decoder(ToWorker)
    assert decoder.decode(msgspec.msgpack.encode(message)) == message


@given(submits)
def test_the_sequences_of_a_request_differ_in_their_id_seed_and_resume_alone(
    submit: Submit,
) -> None:
    sequences = submit.sequences()
    assert [(s.id, s.sampling.seed, s.resume) for s in sequences] == [
        (submit.id, submit.sampling.seed, submit.resume),
        *((s.id, s.seed, s.resume) for s in submit.siblings),
    ]
    for sequence in sequences:
        assert sequence.prompt is submit.prompt
        restored = msgspec.structs.replace(
            sequence,
            id=submit.id,
            sampling=submit.sampling,
            resume=submit.resume,
            siblings=submit.siblings,
        )
        assert restored == submit


@given(st.lists(events))
def test_a_step_keeps_the_order_and_the_types_of_its_events(step_events: list[Started]) -> None:
    step = Step(
        list(step_events),
        Stats(
            running=1,
            waiting=2,
            memory=Memory(active=3, peak=4, cache=5, limit=6),
            device_ms=7.5,
            host_ms=8.5,
        ),
    )
    decoder = msgspec.msgpack.Decoder(ToService)
    assert decoder.decode(msgspec.msgpack.encode(step)) == step


@pytest.mark.parametrize(
    "message",
    [
        Configure(
            models=[ModelSource("a", None), ModelSource("b", "/b")],
            max_running=32,
            prefill_step_tokens=512,
            context_limit_tokens=0,
            memory_limit_bytes=0,
            cache_limit_bytes=0,
        ),
        Shutdown(),
    ],
)
def test_every_other_message_to_the_worker_is_decoded_unchanged(message: ToWorker) -> None:
    decoder = msgspec.msgpack.Decoder(ToWorker)
    assert decoder.decode(msgspec.msgpack.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Loading("a", 1, 2),
        ModelsChanged(
            [
                ModelState(
                    id="a",
                    status="loaded",
                    info=ModelInfo(
                        id="a",
                        family="llama",
                        context_length=1,
                        vocabulary_size=2,
                        weight_bytes=3,
                        load_ms=4.0,
                    ),
                )
            ],
        ),
        Ready(Device("d", "CPU", 5), Memory()),
        Step(
            [
                Finished(
                    id=1,
                    reason="length",
                    prompt_tokens=2,
                    completion_tokens=3,
                    queue_ms=4.0,
                    prefill_ms=5.0,
                    decode_ms=6.0,
                )
            ],
            Stats(running=0, waiting=0, memory=Memory(), device_ms=0.0, host_ms=0.0),
        ),
        Fatal("no memory"),
    ],
)
def test_every_other_message_to_the_service_is_decoded_unchanged(message: ToService) -> None:
    decoder = msgspec.msgpack.Decoder(ToService)
    assert decoder.decode(msgspec.msgpack.encode(message)) == message


def test_the_two_directions_share_no_message() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(ToWorker).decode(msgspec.msgpack.encode(Fatal("x")))
