"""The table of all documented parameters, with the support of each.

The validator and `GET /v1/capabilities` use it, and a test compares it with OpenAI's list of
parameters. Every field of a request's struct has a row here; any other field is unknown.
`service.schema.annotations` has the table of the unknown keys that clients add to messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypeVar

import msgspec

from service.errors import InvalidRequest

Support = Literal["honoured", "label", "refused"]
Requirement = Literal[
    "chat_template",
    "fill_in_middle",
    "reasoning_effort",
    "reasoning_markers",
    "speculation",
    "template_variables",
]


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """The support of one parameter.

    - honoured: it works as documented.
    - label: it is metadata or a hint and has no effect on the answer.
    - refused: 400, unless its value is one of `no_op_values`, which have no effect.

    `requires` is what a model must have; with other models the parameter is refused, or a label
    where the answer is what it would be without it.
    Null is the same as leaving the parameter out, and always accepted.
    """

    support: Support
    no_op_values: tuple[Any, ...] = ()
    requires: Requirement | None = None


HONOURED = Parameter("honoured")
METADATA = Parameter("label")


def refused(*no_op_values: Any) -> Parameter:
    """A parameter that accepts only these values, which have no effect."""
    return Parameter("refused", no_op_values)


def requiring(requirement: Requirement) -> Parameter:
    """A parameter that only models with `requirement` support."""
    return Parameter("honoured", requires=requirement)


# Of chat completions, completions and the tokenizer's endpoints. A dialect with parameters of
# other meanings has a table of its own in its folder.
PARAMETERS: dict[str, Parameter] = {
    "add_generation_prompt": requiring("chat_template"),
    "add_special": HONOURED,
    "add_special_tokens": HONOURED,
    "audio": refused(),
    "best_of": HONOURED,
    "chat_template_kwargs": requiring("template_variables"),
    "content": HONOURED,
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
    "parse_special": HONOURED,
    "prediction": requiring("speculation"),
    "presence_penalty": HONOURED,
    "priority": HONOURED,
    "prompt": HONOURED,
    "prompt_cache_key": METADATA,
    "prompt_cache_options": METADATA,
    "prompt_cache_retention": METADATA,
    "reasoning_effort": requiring("reasoning_effort"),
    "repetition_context_size": HONOURED,
    "repetition_penalty": HONOURED,
    "response_format": HONOURED,
    "return_progress": HONOURED,
    "return_token_strs": HONOURED,
    "safety_identifier": METADATA,
    "seed": HONOURED,
    "skip_special_tokens": HONOURED,
    "service_tier": refused("auto", "default"),
    "stop": HONOURED,
    "stop_token_ids": HONOURED,
    "store": refused(False),
    "stream": HONOURED,
    "stream_options": HONOURED,
    "stream_options.continuous_usage_stats": HONOURED,
    "stream_options.include_obfuscation": refused(False),
    "structured_outputs": HONOURED,
    "suffix": requiring("fill_in_middle"),
    "temperature": HONOURED,
    "thinking_token_budget": requiring("reasoning_markers"),
    "tokens": HONOURED,
    "tool_choice": HONOURED,
    "tools": HONOURED,
    "top_k": HONOURED,
    "top_logprobs": HONOURED,
    "top_p": HONOURED,
    "user": METADATA,
    "verbosity": refused("medium"),
    "web_search_options": refused(),
    "with_pieces": HONOURED,
}


# What an operator may have ignored where a model cannot honour it (setting `soften`).
SOFTENABLE = ("reasoning_effort", "service_tier", "store", "verbosity", "web_search_options")

RequestT = TypeVar("RequestT")


def soften_parameters(request: RequestT, softened: AbstractSet[str]) -> tuple[RequestT, list[str]]:
    """The request without the refused values of `softened` parameters, and their names.

    The worker decides on `reasoning_effort`: some models honour it.
    """
    table = parameters_of(type(request))
    ignored = [
        name
        for name, parameter in table.items()
        if name in softened
        and parameter.support == "refused"
        and _has_effect(_value_at(request, name), parameter.no_op_values)
    ]
    if not ignored:
        return request, []
    no_ops = {name: next(iter(table[name].no_op_values), None) for name in ignored}
    return msgspec.structs.replace(request, **no_ops), ignored  # type: ignore[type-var]


def parameters_of(request_type: type) -> Mapping[str, Parameter]:
    """The table of an endpoint's parameters, by the struct of its requests."""
    table: Mapping[str, Parameter] = getattr(request_type, "parameters", PARAMETERS)
    return table


def refuse_unsupported(request: msgspec.Struct, table: Mapping[str, Parameter]) -> None:
    """Refuse every parameter that is not supported and has an effect on the answer.

    Raises:
        InvalidRequest: a parameter is not supported; the error names it.
    """
    for name, parameter in table.items():
        if parameter.support == "refused":
            _refuse(name, parameter.no_op_values, _value_at(request, name))


def _refuse(name: str, no_op_values: tuple[Any, ...], value: object) -> None:
    if not _has_effect(value, no_op_values):
        return
    allowed = [msgspec.json.encode(no_op).decode() for no_op in no_op_values]
    advice = f" with a value other than {' or '.join(allowed)}" if allowed else ""
    raise InvalidRequest(
        f"`{name}` is not supported by this server{advice}.",
        param=name,
        code="unsupported_parameter",
    )


def _has_effect(value: object, no_op_values: tuple[Any, ...]) -> bool:
    return value is not None and not any(_same(value, no_op) for no_op in no_op_values)


def _same(value: object, no_op: object) -> bool:
    return type(value) is type(no_op) and value == no_op


def _value_at(request: object, name: str) -> object:
    """The value at a dotted `name`; None if the request has no such field."""
    value: object = request
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
