"""generation_config.json: how a model's authors want it to be sampled, and its stop tokens.

Of the file's parameters those of `ModelDefaults` apply, as in vLLM. Never `do_sample` and
`max_new_tokens`: a request's `temperature` and `max_tokens` say the same. A value that cannot be
used is a problem to report and not an error, because the model can be served without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from protocol.messages import Sampling
from protocol.model_states import ModelDefaults
from worker.folder.json_values import parse_token_ids, read_object

FILE = "generation_config.json"
# As in a request; a test compares them with the service's.
TYPES: dict[str, Any] = {
    "temperature": Annotated[float, Meta(ge=0, le=2)],
    "top_p": Annotated[float, Meta(ge=0, le=1)],
    "top_k": Annotated[int, Meta(ge=-1, le=2**20)],
    "min_p": Annotated[float, Meta(ge=0, le=1)],
    "repetition_penalty": Annotated[float, Meta(gt=0, le=2)],
}
NO_DEFAULTS = ModelDefaults()


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What one model's file says; `problems` name each value that is not used, and why."""

    defaults: ModelDefaults = NO_DEFAULTS
    stop_tokens: frozenset[int] = frozenset()
    problems: tuple[str, ...] = ()


def read_generation_config(path: Path) -> GenerationConfig:
    """The generation_config.json of a model's folder; one that is missing or empty says nothing."""
    content, problem = read_object(path / FILE)
    defaults, problems = parse_defaults(content)
    stop_tokens, refused = parse_token_ids(content.get("eos_token_id"))
    if refused is not None:
        problems.append(f"eos_token_id {refused}")
    reported = [problem] if problem is not None else problems
    return GenerationConfig(defaults, stop_tokens, tuple(f"{FILE}: {text}" for text in reported))


def parse_defaults(content: dict[str, Any]) -> tuple[ModelDefaults, list[str]]:
    """The sampling parameters that a file names, and the problems of those that are not used."""
    values, problems = {}, []
    for name, type in TYPES.items():
        value = content.get(name)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer() and name == "top_k":
            value = int(value)
        try:
            values[name] = max(msgspec.convert(value, type), 0)
        except msgspec.ValidationError as error:
            problems.append(f"{name} is ignored: {error}")
    return ModelDefaults(**values), problems


def apply_defaults(sampling: Sampling, defaults: ModelDefaults) -> Sampling:
    """The sampling of a request, with the model's values of the parameters that it leaves unset."""
    values = {
        name: value
        for name in sampling.unset
        if (value := getattr(defaults, name, None)) is not None
    }
    if values.get("top_p") == 0:
        # The most likely token alone is left.
        values |= {"top_p": 1.0, "temperature": 0.0}
    return msgspec.structs.replace(sampling, **values, unset=[])
