"""The preprocessor: each prompt is prepared once, and what is cancelled is not delivered."""

from __future__ import annotations

import queue
from dataclasses import replace

import msgspec
import pytest

from protocol.events import Rejected, Tokenized
from protocol.messages import (
    ChatPrompt,
    ModelSource,
    Prompt,
    Sampling,
    Sibling,
    Submit,
    TextPrompt,
    TokenPrompt,
)
from protocol.tokenization import Tokenize
from tests.waiting import wait_for
from tests.worker.driver import make_config_loader
from worker.intake import preprocessor as sizes
from worker.intake.encoded_submit import encode
from worker.intake.prepared import PreparationResult, PreparedRequest, RequestDeferred
from worker.intake.preprocessor import Preprocessor
from worker.models.model_config import ModelConfig

Inbox = queue.SimpleQueue[PreparationResult]

SOURCE = ModelSource("m", None)
CHAT = ChatPrompt([{"role": "user", "content": "hello"}])
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return make_config_loader().load(SOURCE, download=False)


def opened(config: ModelConfig) -> tuple[Preprocessor, Inbox]:
    """A preprocessor with the model open, and its inbox."""
    inbox: Inbox = queue.SimpleQueue()
    preprocessor = Preprocessor([SOURCE], make_config_loader(), inbox)
    preprocessor.register(config, wants_breakpoints=False)
    return preprocessor, inbox


def take(inbox: Inbox, count: int) -> list[PreparedRequest | Rejected]:
    """The next `count` requests from the inbox, in the order of their ids."""
    taken: list[PreparedRequest | Rejected] = []
    while len(taken) < count:
        result = inbox.get(timeout=TIMEOUT_S)
        if isinstance(result, PreparedRequest | Rejected):
            taken.append(result)
    return sorted(taken, key=id_of)


def id_of(result: PreparedRequest | Rejected) -> int:
    return result.id if isinstance(result, Rejected) else result.submit.id


def test_the_sequences_of_a_request_share_one_prepared_prompt(config: ModelConfig) -> None:
    preprocessor, inbox = opened(config)
    siblings = [Sibling(2, 5, [7]), Sibling(3, 6)]
    preprocessor.submit(encode(Submit(1, "m", CHAT, Sampling(4), siblings=siblings)))
    results = take(inbox, 3)
    prepared = [each for each in results if isinstance(each, PreparedRequest)]
    assert [(p.submit.id, p.submit.sampling.seed, p.submit.resume) for p in prepared] == [
        (1, 4, []),
        (2, 5, [7]),
        (3, 6, []),
    ]
    assert all(each.prompt is prepared[0].prompt for each in prepared)
    assert len(preprocessor) == 0


def test_each_sequence_of_a_refused_prompt_is_rejected(config: ModelConfig) -> None:
    preprocessor, inbox = opened(config)
    preprocessor.submit(
        encode(Submit(1, "m", TokenPrompt([10**9]), Sampling(0), siblings=[Sibling(2, 1)]))
    )
    first, second = take(inbox, 2)
    assert isinstance(first, Rejected)
    assert isinstance(second, Rejected)
    assert (first.code, second.code) == ("invalid_value", "invalid_value")


def test_a_cancelled_sequence_is_dropped_and_its_siblings_are_delivered() -> None:
    inbox: Inbox = queue.SimpleQueue()
    preprocessor = Preprocessor([SOURCE], make_config_loader(), inbox)
    # The model is not open yet, so the request waits for its files.
    preprocessor.submit(
        encode(Submit(1, "m", CHAT, Sampling(0), siblings=[Sibling(2, 1), Sibling(3, 2)]))
    )
    preprocessor.cancel([1, 3])
    [delivered] = take(inbox, 1)
    assert id_of(delivered) == 2


def test_small_prompts_are_delivered_beside_a_large_one_which_can_be_cancelled(
    config: ModelConfig,
) -> None:
    # Its context has no end, so the large prompt is tokenized.
    preprocessor, inbox = opened(replace(config, context_length=10**9))
    large = Submit(1, "m", TextPrompt("ab " * 4_000_000), Sampling(0), siblings=[Sibling(2, 1)])
    preprocessor.submit(encode(large))
    assert preprocessor.memory.reserved_bytes > 12_000_000
    for id in range(3, 9):
        preprocessor.submit(encode(Submit(id, "m", CHAT, Sampling(0))))
    assert [id_of(each) for each in take(inbox, 6)] == list(range(3, 9))
    assert len(preprocessor) == 2
    preprocessor.cancel([1, 2])
    assert len(preprocessor) == 0
    preprocessor.submit(encode(Submit(9, "m", CHAT, Sampling(0))))
    assert [id_of(each) for each in take(inbox, 1)] == [9]
    totals = preprocessor.take_totals()
    assert totals.prompts >= 6
    assert totals.seconds > 0
    preprocessor.shut_down()
    # The thread that waits for the process gives its memory back once it has ended.
    wait_for(lambda: preprocessor.memory.reserved_bytes == 0)


def test_prompts_that_wait_have_a_limit(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "MAX_WAITING_BYTES", 100)
    preprocessor, inbox = opened(config)
    preprocessor.submit(encode(Submit(1, "m", TextPrompt("x" * 200), Sampling(0))))
    [refused] = take(inbox, 1)
    assert isinstance(refused, Rejected)
    assert refused.code == "insufficient_memory"
    preprocessor.submit(encode(Submit(2, "m", TextPrompt("x"), Sampling(0))))
    assert [type(each) for each in take(inbox, 1)] == [PreparedRequest]


# ---------------------------------------------------------------- the tokenizer alone


def tokenize(id: int, prompt: Prompt | None, model: str = "m") -> Tokenize:
    return Tokenize(id, model, msgspec.Raw(msgspec.msgpack.encode(prompt)), "content")


def tokenizing(
    config: ModelConfig | None, source: ModelSource = SOURCE
) -> tuple[Preprocessor, queue.SimpleQueue[Tokenized | Rejected], Inbox]:
    """A preprocessor, what it sends past the engine core, and its inbox."""
    inbox: Inbox = queue.SimpleQueue()
    sent: queue.SimpleQueue[Tokenized | Rejected] = queue.SimpleQueue()
    preprocessor = Preprocessor([source], make_config_loader(), inbox, send=sent.put)
    if config is not None:
        preprocessor.register(config, wants_breakpoints=False)
    return preprocessor, sent, inbox


@pytest.mark.parametrize("is_open", [True, False])
def test_a_result_passes_the_engine_core_which_is_only_woken(
    config: ModelConfig, is_open: bool
) -> None:
    preprocessor, sent, inbox = tokenizing(config if is_open else None)
    preprocessor.submit(tokenize(1, CHAT))
    result = sent.get(timeout=TIMEOUT_S)
    assert isinstance(result, Tokenized)
    assert msgspec.json.decode(result.value) == config.prompts.build(CHAT)
    assert len(preprocessor) == 0
    woken = [inbox.get(timeout=TIMEOUT_S) for _ in range(1 if is_open else 2)]
    assert set(map(type, woken)) == {RequestDeferred}
    assert preprocessor.take_totals().prompts == 1


@pytest.mark.long
@pytest.mark.parametrize("text", ["ab " * 30, "ab " * 30_000, "ab " * 350_000])
def test_texts_of_all_sizes_are_tokenized_beyond_the_context_length(
    config: ModelConfig, text: str
) -> None:
    preprocessor, sent, _ = tokenizing(config)
    preprocessor.submit(tokenize(1, TextPrompt(text)))
    result = sent.get(timeout=TIMEOUT_S)
    assert isinstance(result, Tokenized)
    tokens = config.prompts.encode(text, special_tokens=False)
    assert msgspec.json.decode(result.value) == tokens
    preprocessor.shut_down()
    assert preprocessor.memory.reserved_bytes == 0


def test_what_cannot_be_tokenized_is_rejected(config: ModelConfig) -> None:
    preprocessor, sent, _ = tokenizing(config)
    preprocessor.submit(tokenize(1, TokenPrompt([10**9])))
    rejected = sent.get(timeout=TIMEOUT_S)
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.param) == ("invalid_value", "content[0]")


def test_a_model_without_files_is_named_in_the_rejection() -> None:
    preprocessor, sent, inbox = tokenizing(None, ModelSource("gone", "/no/such/model"))
    preprocessor.submit(tokenize(1, CHAT, model="gone"))
    rejected = sent.get(timeout=TIMEOUT_S)
    assert isinstance(rejected, Rejected)
    assert rejected.code == "model_load_failed"
    # No load was tried, so none has failed.
    assert {type(inbox.get(timeout=TIMEOUT_S)) for _ in range(2)} == {RequestDeferred}


def test_a_cancelled_tokenization_is_not_sent() -> None:
    preprocessor, sent, _ = tokenizing(None)
    # The model is not open yet, so both wait for its files.
    preprocessor.submit(tokenize(1, CHAT))
    preprocessor.submit(tokenize(2, CHAT))
    preprocessor.cancel([1])
    assert sent.get(timeout=TIMEOUT_S).id == 2
    assert len(preprocessor) == 0


def test_tokenizations_that_wait_have_a_limit(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "MAX_WAITING_BYTES", 100)
    preprocessor, sent, _ = tokenizing(config)
    preprocessor.submit(tokenize(1, TextPrompt("x" * 200)))
    refused = sent.get(timeout=TIMEOUT_S)
    assert isinstance(refused, Rejected)
    assert refused.code == "insufficient_memory"


class CountingLoader:
    """Reads the built-in model's files under each id, and counts how often."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load(self, source: ModelSource, *, download: bool) -> ModelConfig:
        self.loaded.append(source.id)
        return make_config_loader().load(source, download=download)


def test_few_models_are_kept_open_for_their_tokenizer_alone() -> None:
    loader = CountingLoader()
    sent: queue.SimpleQueue[Tokenized | Rejected] = queue.SimpleQueue()
    inbox: Inbox = queue.SimpleQueue()
    sources = [ModelSource(id, None) for id in "abcd"]
    preprocessor = Preprocessor(sources, loader, inbox, send=sent.put)

    def tokenize_with(model: str) -> None:
        preprocessor.submit(tokenize(1, CHAT, model))
        assert isinstance(sent.get(timeout=TIMEOUT_S), Tokenized)

    # A model that generates is kept, whatever else is opened.
    preprocessor.submit(encode(Submit(2, "d", CHAT, Sampling(0))))
    assert isinstance(take(inbox, 1)[0], PreparedRequest)
    for model in "abac":
        tokenize_with(model)
    assert loader.loaded == ["d", "a", "b", "c"]
    for model in "acdb":
        tokenize_with(model)
    assert loader.loaded == ["d", "a", "b", "c", "b"]
