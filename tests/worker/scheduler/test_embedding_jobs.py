"""Requests for vectors: in turns of clients, beside streams, and each fails alone."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest

from protocol.embedding import Embed, EmbeddingSource
from protocol.events import Embedded, Failed, Finished, Rejected, Started, TextDelta
from protocol.messages import (
    Cancel,
    CommandResult,
    ModelsChanged,
    ModelSource,
    Sampling,
    Shutdown,
    Step,
    Submit,
    TextPrompt,
)
from protocol.stats import Memory
from tests.worker.driver import end_of, events_of, is_end, make_config_loader, make_configure
from worker.embedding.model import EmbeddingModel, load_embedding_model
from worker.intake.prepared import PreparedRequest, prepare, prepare_texts
from worker.intake.prepared_texts import PreparedEmbedding, PreparedTexts, to_embedding
from worker.intake.preprocessor import Preprocessor
from worker.intake.receiver import Inbox, Work
from worker.memory.budget import Budget
from worker.models import weight_loader
from worker.models.pool import ModelPool
from worker.scheduler.core import EngineCore

EMBEDDER, CHAT = "embedder", "chat"
WORDS = "the way of water and wine "
TOLERANCE = 1e-5
AfterStep = Callable[[Step], Iterable[Work]]


def sources_of(qwen: Path, llama: Path) -> list[ModelSource]:
    embedding = EmbeddingSource(kind="embedding", pooling="lasttoken")
    return [
        ModelSource(EMBEDDER, str(qwen), embedding=embedding),
        ModelSource(CHAT, str(llama)),
    ]


def make_pool(qwen: Path, llama: Path) -> ModelPool:
    """A pool of an embedding model and a chat model, both loaded."""
    pool = ModelPool(make_configure(sources_of(qwen, llama)), make_config_loader())
    pool.load_all()
    return pool


def make_small_pool(qwen: Path, llama: Path) -> ModelPool:
    """A pool whose memory holds one of the two models; none is loaded."""
    embedding = EmbeddingSource(kind="embedding", pooling="lasttoken")
    sources = [
        ModelSource(EMBEDDER, str(qwen), embedding=embedding),
        ModelSource(CHAT, str(llama)),
    ]
    sizes = [
        sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (qwen, llama)
    ]
    budget = Budget(max(sizes) + min(sizes) // 2, 0, 0)
    return ModelPool(make_configure(sources, preload=[]), make_config_loader(), budget)


@pytest.fixture
def pool(qwen_path: Path, llama_path: Path) -> ModelPool:
    return make_pool(qwen_path, llama_path)


def request(id: int, texts: Sequence[str | list[int]], client: str = "", **fields: Any) -> Embed:
    prompt = msgspec.Raw(msgspec.msgpack.encode(texts))
    return Embed(id=id, model=EMBEDDER, prompt=prompt, client=client, **fields)


def stream(id: int, tokens: int) -> Submit:
    return Submit(id, CHAT, TextPrompt("Once"), Sampling(seed=0, temperature=0.0), tokens)


def to_work(pool: ModelPool, asked: Submit | Embed) -> Work:
    """A request as the preprocessor delivers it."""
    [source] = [source for source in pool.sources if source.id == asked.model]
    config = make_config_loader().load(source, download=False)
    if isinstance(asked, Submit):
        return prepare(config, asked)
    prepared = prepare_texts(config.texts, asked, config.context_length)
    if not isinstance(prepared, PreparedTexts):
        return prepared
    return to_embedding(config, asked, prepared, received_at=float(asked.id))


def run(
    pool: ModelPool,
    asked: Sequence[Submit | Embed],
    *,
    max_running: int = 8,
    after_step: AfterStep = lambda step: (),
) -> list[Step]:
    """Every step until all requests have ended; `after_step` returns work that arrives then."""
    inbox: Inbox = queue.SimpleQueue()
    open_ids = {each.id for each in asked}
    steps: list[Step] = []

    def send(message: Step | ModelsChanged | CommandResult) -> None:
        if not isinstance(message, Step):
            return
        steps.append(message)
        open_ids.difference_update(event.id for event in message.events if is_end(event))
        for work in after_step(message):
            if isinstance(work, Cancel):
                open_ids.difference_update(work.ids)
            elif isinstance(work, PreparedRequest | PreparedEmbedding):
                open_ids.add(work.submit.id)
            inbox.put(work)
        if not open_ids:
            inbox.put(Shutdown())

    for each in asked:
        inbox.put(to_work(pool, each))
    core = EngineCore(
        pool,
        Preprocessor(pool.sources, make_config_loader(), inbox),
        inbox,
        send=send,
        measure_memory=Memory,
        max_running=max_running,
    )
    core.run()
    return steps


def vectors_of(steps: Sequence[Step], id: int) -> dict[int, np.ndarray[Any, Any]]:
    """The vectors of one request, by index."""
    found = {}
    for event in events_of(steps, id):
        if isinstance(event, Embedded):
            rows = np.frombuffer(event.values, "<f4").reshape(len(event.indices), -1)
            found.update(dict(zip(event.indices, rows, strict=True)))
    return found


class Faulty:
    """An embedding model of which rows that begin with `poison` fail."""

    def __init__(self, model: EmbeddingModel, poison: int, *, gives_nan: bool) -> None:
        self._model = model
        self._poison = poison
        self._gives_nan = gives_nan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed(self, rows: Sequence[Sequence[int]]) -> mx.array:
        poisoned = mx.array([row[0] == self._poison for row in rows])
        if not self._gives_nan and poisoned.any().item():
            raise TypeError("no such row")
        return mx.where(poisoned[:, None], mx.nan, self._model.embed(rows))


def make_faulty(
    qwen: Path, llama: Path, monkeypatch: pytest.MonkeyPatch, *, gives_nan: bool
) -> ModelPool:
    poison = 7

    def load_faulty(*arguments: Any, **options: Any) -> Any:
        return Faulty(load_embedding_model(*arguments, **options), poison, gives_nan=gives_nan)

    monkeypatch.setattr(weight_loader, "load_embedding_model", load_faulty)
    # The check at the load has no such row.
    return make_pool(qwen, llama)


POISONED: list[str | list[int]] = [[7, 8, 9]]
SOUND: list[str | list[int]] = [[8, 8, 9]]


def test_a_request_starts_gives_each_vector_once_and_ends(pool: ModelPool) -> None:
    texts = [WORDS * (index % 7 + 1) for index in range(20)]
    steps = run(pool, [request(1, texts)])
    first, *between, last = events_of(steps, 1)
    assert isinstance(first, Started)
    assert isinstance(last, Finished)
    assert last.reason == "stop"
    assert last.prompt_tokens == first.prompt_tokens > len(texts)
    indices = [index for event in between if isinstance(event, Embedded) for index in event.indices]
    assert sorted(indices) == list(range(len(texts)))


def test_the_vectors_are_those_of_each_text_alone(pool: ModelPool) -> None:
    texts = [WORDS * count for count in (1, 40, 2, 3)]
    together = vectors_of(run(pool, [request(1, texts)]), 1)
    for index, text in enumerate(texts):
        alone = vectors_of(run(pool, [request(1, [text])]), 1)[0]
        assert np.abs(together[index] - alone).max() < TOLERANCE


def test_a_stream_goes_on_beside_a_list(pool: ModelPool) -> None:
    texts = [f"{index} {WORDS * 30}" for index in range(40)]
    steps = run(pool, [stream(1, 60), request(2, texts)])
    embedding = [n for n, step in enumerate(steps) if any(e.id == 2 for e in step.events)]
    between = steps[embedding[0] : embedding[-1]]
    assert sum(isinstance(event, TextDelta) for step in between for event in step.events) > 10
    assert isinstance(end_of(steps, 1), Finished)
    assert len(vectors_of(steps, 2)) == len(texts)


def test_a_cancelled_list_ends_before_it_is_computed(pool: ModelPool) -> None:
    texts = [f"{index} {WORDS * 60}" for index in range(200)]

    def cancel(step: Step) -> Iterable[Work]:
        return [Cancel([1])] if any(isinstance(e, Embedded) for e in step.events) else []

    steps = run(pool, [request(1, texts)], after_step=cancel)
    assert 0 < len(vectors_of(steps, 1)) < len(texts)
    [model] = pool.embedders
    assert len(model.engine) == 0


def test_a_client_above_its_share_yields_and_keeps_what_is_computed(pool: ModelPool) -> None:
    texts = [f"{index} {WORDS * 20}" for index in range(30)]
    lists = [request(id, texts, "greedy") for id in (1, 2, 3, 4)]
    small = [request(id, ["small"], "other") for id in (5, 6)]
    steps = run(pool, [*lists, *small], max_running=4)
    ends = [event.id for step in steps for event in step.events if isinstance(event, Finished)]
    assert set(ends[:2]) == {5, 6}
    starts = [event.id for step in steps for event in step.events if isinstance(event, Started)]
    assert sorted(starts) == [1, 2, 3, 4, 5, 6]
    for each in lists:
        given = [e for e in events_of(steps, each.id) if isinstance(e, Embedded)]
        assert sorted(index for event in given for index in event.indices) == list(range(30))


def test_the_times_of_a_request_add_up_also_where_it_yields_and_its_model_is_loaded(
    qwen_path: Path, llama_path: Path
) -> None:
    pool = make_small_pool(qwen_path, llama_path)
    texts = [f"{index} {WORDS * 20}" for index in range(30)]
    lists = [request(id, texts, "greedy") for id in (1, 2, 3, 4)]
    small = [request(id, ["small"], "other") for id in (5, 6)]
    began = time.monotonic()
    steps = run(pool, [*lists, *small], max_running=4)
    ended = time.monotonic()
    for id in range(1, 7):
        end = end_of(steps, id)
        assert isinstance(end, Finished)
        spent_ms = end.preparation_ms + end.load_ms + end.queue_ms + end.prefill_ms
        # A request of these tests was received when the clock showed its id.
        assert began - id <= spent_ms / 1000 <= ended - id
        assert end.prefill_ms > 0 < end.load_ms
        assert end.use.computed_tokens == end.prompt_tokens


def test_models_of_both_kinds_are_evicted_for_each_other(qwen_path: Path, llama_path: Path) -> None:
    pool = make_small_pool(qwen_path, llama_path)
    later: list[Submit | Embed] = [stream(2, 5), request(3, ["wine"]), stream(4, 5)]
    loaded: list[list[str]] = []

    def follow(step: Step) -> Iterable[Work]:
        if not any(is_end(event) for event in step.events):
            return []
        loaded.append([state.id for state in pool.states() if state.status == "loaded"])
        return [to_work(pool, later.pop(0))] if later else []

    steps = run(pool, [request(1, ["water"])], after_step=follow)
    assert loaded == [[EMBEDDER], [CHAT], [EMBEDDER], [CHAT]]
    assert all(isinstance(end_of(steps, id), Finished) for id in (1, 2, 3, 4))
    assert pool.account.kv.keys() == pool.account.weight_bytes.keys() == {CHAT}


def test_values_that_are_no_numbers_fail_their_request_alone(
    qwen_path: Path, llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_faulty(qwen_path, llama_path, monkeypatch, gives_nan=True)
    steps = run(pool, [request(1, POISONED), request(2, SOUND)])
    failed = end_of(steps, 1)
    assert isinstance(failed, Failed)
    assert "NaN" in failed.message
    assert vectors_of(steps, 1) == {}
    assert np.isfinite(vectors_of(steps, 2)[0]).all()


def test_a_request_that_its_model_fails_is_tried_alone_and_fails_alone(
    qwen_path: Path, llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_faulty(qwen_path, llama_path, monkeypatch, gives_nan=False)
    steps = run(pool, [request(1, POISONED), request(2, SOUND), request(3, SOUND)])
    failed = end_of(steps, 1)
    assert isinstance(failed, Failed)
    assert "TypeError: no such row" in failed.message
    for id in (2, 3):
        assert isinstance(end_of(steps, id), Finished)
        assert len(vectors_of(steps, id)) == 1


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"query": "x"}, "model_not_supported", "model"),
        ({"dimensions": 5}, "invalid_value", "dimensions"),
        ({"input_type": "query"}, "unsupported_parameter", "input_type"),
    ],
)
def test_what_the_model_cannot_do_is_rejected(
    pool: ModelPool, fields: dict[str, Any], code: str, param: str
) -> None:
    rejected = to_work(pool, request(1, ["x"], **fields))
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.param) == (code, param)


def test_token_ids_beyond_the_vocabulary_are_rejected(pool: ModelPool) -> None:
    rejected = to_work(pool, request(1, [[1], [10**6]]))
    assert isinstance(rejected, Rejected)
    assert rejected.param == "input[1]"


def test_an_answer_of_too_many_values_is_rejected(pool: ModelPool) -> None:
    rejected = to_work(pool, request(1, ["x"] * 200_000))
    assert isinstance(rejected, Rejected)
    assert rejected.code == "invalid_value"
    assert "131072 vectors" in rejected.message
