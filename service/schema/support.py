"""Every documented parameter, and what this server does with it: the one table.

The validator refuses by it, `GET /v1/capabilities` is made from it, and a test
walks OpenAI's own list against it. A parameter that is no field of the request's
struct is unknown; each one that is a field has its line here.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from service.errors import InvalidRequest

Support = Literal["honoured", "label", "refused"]
Requirement = Literal["chat_template", "fill_in_middle", "template_variables", "reasoning_effort"]


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done with one parameter.

    - honoured: it does what its documentation says.
    - label: it names or hints something, and changes no answer by its nature.
    - refused: 400, unless its value is one of `no_op_values`, which change nothing.

    `requires` says what a model must have for it to be honoured; else it is refused.
    Null, which is leaving the parameter out, is neutral always.
    """

    support: Support
    no_op_values: tuple[Any, ...] = ()
    requires: Requirement | None = None


HONOURED = Parameter("honoured")
METADATA = Parameter("label")


def refused(*no_op_values: Any) -> Parameter:
    """A parameter of which only these values are taken."""
    return Parameter("refused", no_op_values)


def requiring(need: Requirement) -> Parameter:
    """A parameter that only some models can honour."""
    return Parameter("honoured", requires=need)


PARAMETERS: dict[str, Parameter] = {
    "audio": refused(),
    "best_of": HONOURED,
    "chat_template_kwargs": requiring("template_variables"),
    "continue_final_message": requiring("chat_template"),
    "echo": HONOURED,
    "frequency_penalty": HONOURED,
    "function_call": HONOURED,
    "functions": HONOURED,
    "ignore_eos": HONOURED,
    "logit_bias": HONOURED,
    "logprobs": HONOURED,
    "max_completion_tokens": HONOURED,
    "max_tokens": HONOURED,
    "messages": requiring("chat_template"),
    "metadata": METADATA,
    "min_p": HONOURED,
    "min_tokens": HONOURED,
    "modalities": refused(["text"]),
    "model": HONOURED,
    "moderation": refused(),
    "n": HONOURED,
    "parallel_tool_calls": HONOURED,
    "prediction": refused(),
    "presence_penalty": HONOURED,
    "prompt": HONOURED,
    "prompt_cache_key": METADATA,
    "prompt_cache_options": METADATA,
    "prompt_cache_retention": METADATA,
    "reasoning_effort": requiring("reasoning_effort"),
    "repetition_penalty": HONOURED,
    "response_format": HONOURED,
    "safety_identifier": METADATA,
    "seed": HONOURED,
    "service_tier": refused("auto", "default"),
    "stop": HONOURED,
    "stop_token_ids": HONOURED,
    "store": refused(False),
    "stream": HONOURED,
    "stream_options": HONOURED,
    "stream_options.include_obfuscation": refused(False),
    "structured_outputs": HONOURED,
    "suffix": requiring("fill_in_middle"),
    "temperature": HONOURED,
    "tool_choice": HONOURED,
    "tools": HONOURED,
    "top_k": HONOURED,
    "top_logprobs": HONOURED,
    "top_p": HONOURED,
    "user": METADATA,
    "verbosity": refused("medium"),
    "web_search_options": refused(),
}


def refuse_unsupported(request: msgspec.Struct) -> None:
    """Refuse any value that would change the answer by a parameter that is not honoured.

    Raises:
        InvalidRequest: it names the parameter.
    """
    for name, parameter in PARAMETERS.items():
        if parameter.support == "refused":
            _refuse(name, parameter.no_op_values, _value_at(request, name))


def _refuse(name: str, no_op_values: tuple[Any, ...], value: object) -> None:
    if value is None or any(_same(value, harmless) for harmless in no_op_values):
        return
    allowed = [msgspec.json.encode(harmless).decode() for harmless in no_op_values]
    advice = f", other than as {' or '.join(allowed)}" if allowed else ""
    raise InvalidRequest(
        f"`{name}` is not supported by this server{advice}.",
        param=name,
        code="unsupported_parameter",
    )


def _same(value: object, no_op_values: object) -> bool:
    return type(value) is type(no_op_values) and value == no_op_values


def _value_at(request: object, name: str) -> object:
    """The value at a dotted `name`; None where the request has no such field."""
    value: object = request
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
