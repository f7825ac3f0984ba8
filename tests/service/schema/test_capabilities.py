"""The capabilities are the validator's table, read for one model."""

from __future__ import annotations

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from protocol.messages import ModelInfo, ModelState
from service.schema.capabilities import describe_capabilities

PLAIN = ModelInfo("m", "llama", 100, 100, 1, 1.0, has_chat_template=False)
ABLE = ModelInfo(
    *("m", "qwen3", 100, 100, 1, 1.0),
    template_variables=["enable_thinking"],
    reasoning_effort=True,
    fill_in_middle=True,
)
NEEDY = ("messages", "chat_template_kwargs", "reasoning_effort", "continue_final_message")


def supports(info: ModelInfo | None, path: str) -> dict[str, str]:
    told = describe_capabilities(ModelState("m", "loaded", info=info))
    return {name: capability.support for name, capability in told.endpoints[path].items()}


@pytest.mark.parametrize(
    ("documented", "path"), [(ChatParams, "/v1/chat/completions"), (TextParams, "/v1/completions")]
)
def test_every_documented_parameter_is_told(documented: type, path: str) -> None:
    told = supports(ABLE, path)
    assert documented.__annotations__.keys() - told.keys() == set()
    assert set(told.values()) <= {"honoured", "label", "refused"}


def test_a_quantisation_that_cannot_be_is_told_with_its_reason() -> None:
    told = describe_capabilities(ModelState("m", "loaded", info=ABLE), "4bit").kv_cache
    assert (told.asked, told.quantised) == ("4bit", False)
    assert "mlx-lm" in told.reason


def test_what_a_model_must_have_decides_over_what_needs_it() -> None:
    for info, support in ((PLAIN, "refused"), (ABLE, "honoured"), (None, "depends")):
        chat, text = supports(info, "/v1/chat/completions"), supports(info, "/v1/completions")
        assert {chat[name] for name in NEEDY} == {support}
        assert text["suffix"] == support
        assert chat["temperature"] == "honoured"
        assert "suffix" not in chat
