"""LangChain's own suite for embeddings, and its vector store, against the real service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from pydantic import SecretStr

from tests.e2e.daemon import Daemon, running
from tests.e2e.embedders import EMBEDDER, configure, table
from tests.prompts import PROMPTS


@pytest.fixture(scope="module")
def embedder(qwen_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of a decoder with pooling alone."""
    model = table(EMBEDDER, qwen_path, kind='"embedding"', pooling='"mean"')
    with running(flags=configure(tmp_path_factory.mktemp("embedder"), model)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
async def clients(anyio_backend: str) -> AsyncIterator[dict[str, Any]]:
    """Connections for all tests, which also share one event loop by this; closed at the end."""
    with openai.DefaultHttpxClient() as client:
        async with openai.DefaultAsyncHttpxClient() as async_client:
            yield {"http_client": client, "http_async_client": async_client}


def params_for(daemon: Daemon, clients: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": EMBEDDER,
        "base_url": f"{daemon.url}/v1",
        "api_key": SecretStr("none"),
        "max_retries": 0,
        **clients,
    }


@pytest.mark.anyio
class TestEmbeddings(EmbeddingsIntegrationTests):
    """The suite's own tests."""

    @pytest.fixture(autouse=True)
    def _serve(self, embedder: Daemon, clients: dict[str, Any]) -> None:
        self.params = params_for(embedder, clients)

    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {**self.params, "check_embedding_ctx_length": False}


@pytest.mark.anyio
async def test_a_vector_store_finds_the_texts_that_it_has(
    embedder: Daemon, clients: dict[str, Any]
) -> None:
    embeddings = OpenAIEmbeddings(**params_for(embedder, clients), check_embedding_ctx_length=False)
    store = await InMemoryVectorStore.afrom_texts(list(PROMPTS), embeddings)
    for prompt in PROMPTS:
        [(found, score)] = await store.asimilarity_search_with_score(prompt, k=1)
        assert found.page_content == prompt
        assert score == pytest.approx(1.0, abs=1e-5)


@pytest.mark.anyio
async def test_token_ids_are_refused_in_words_that_name_langchains_switch(
    embedder: Daemon, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As tiktoken's encodings, which are on the network.
    monkeypatch.setattr("tiktoken.encoding_for_model", lambda name: Words())
    embeddings = OpenAIEmbeddings(**params_for(embedder, clients))
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_query("water")


class Words:
    """A tokenizer with a token for each word."""

    def encode(self, text: str, **options: Any) -> list[int]:
        return [len(word) for word in text.split()]

    encode_ordinary = encode
