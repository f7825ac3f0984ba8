"""LangChain's own suite for chat models through `/v1/messages`, as `ChatAnthropic` sends it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from pydantic import SecretStr

from tests.e2e.built_in_limits import expect_beyond_the_model
from tests.e2e.daemon import Daemon

pytestmark = pytest.mark.long
pytest_plugins = ("tests.e2e.unrecorded_calls",)

ANSWER_TOKENS = 256


@pytest.fixture(scope="module", autouse=True)
async def _one_event_loop(anyio_backend: str) -> None:
    """All tests share one event loop by this, and with it the client's connections."""


@pytest.mark.anyio
class TestAnthropicModel(ChatModelIntegrationTests):
    """The suite's own tests; its knobs say what a text model has."""

    @pytest.fixture(autouse=True)
    def _serve(self, request: pytest.FixtureRequest, demo: Daemon) -> None:
        self.url = demo.url
        expect_beyond_the_model(request)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model_name": "default",
            "base_url": self.url,
            "api_key": SecretStr("none"),
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "max_retries": 0,
            # A small model repeats itself, and would not come to the end of a string.
            "model_kwargs": {"extra_body": {"frequency_penalty": 0.5}},
        }

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # The suite's own are for models that write more than this one can.
        return {}
