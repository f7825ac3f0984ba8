"""LangChain's own suite for chat models, against the real service and its built-in model.

It runs through Chat Completions, and through Responses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from pydantic import SecretStr

from tests.e2e.built_in_limits import expect_beyond_the_model
from tests.e2e.daemon import Daemon

pytestmark = pytest.mark.long
pytest_plugins = ("tests.e2e.unrecorded_calls",)

ANSWER_TOKENS = 256


@pytest.fixture(scope="module")
async def clients(anyio_backend: str) -> AsyncIterator[dict[str, Any]]:
    """Connections for all tests, which also share one event loop by this; closed at the end."""
    with openai.DefaultHttpxClient() as client:
        async with openai.DefaultAsyncHttpxClient() as async_client:
            yield {"http_client": client, "http_async_client": async_client}


@pytest.mark.anyio
# The openai package's own: its parsed message is not of the type that it declares.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
# One test gives a model of Pydantic 1, and LangChain tells what it does instead.
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema")
class TestChatModel(ChatModelIntegrationTests):
    """The suite's own tests; its knobs say what a text model has."""

    @pytest.fixture(autouse=True)
    def _serve(
        self,
        request: pytest.FixtureRequest,
        demo: Daemon,
        clients: dict[str, Any],
    ) -> None:
        self.url = f"{demo.url}/v1"
        self.clients = clients
        expect_beyond_the_model(request)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "default",
            "base_url": self.url,
            "api_key": SecretStr("none"),
            "max_completion_tokens": ANSWER_TOKENS,
            "temperature": 0,
            # A small model repeats itself, and would not come to the end of a string.
            "frequency_penalty": 0.5,
            "max_retries": 0,
            "stream_usage": True,
            **self.clients,
        }

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # The suite's own give the answer's length by the older name, beside the newer.
        return {}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "mlxd-demo"


class TestResponsesModel(TestChatModel):
    """The same suite through `/v1/responses`."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        params = {**super().chat_model_params, "use_responses_api": True}
        # The method that sends a response has no such parameter.
        params["extra_body"] = {"frequency_penalty": params.pop("frequency_penalty")}
        return params
