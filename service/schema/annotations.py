"""The unknown keys that clients add to a request: which are labels, and which are refused.

A place is a path without indexes: `messages[].tool_calls[]`. A key that has no row here and no
field in the request's struct is refused or ignored by the setting `unknown_fields`, unless its
value says nothing or leaves a feature of another server off.
"""

from __future__ import annotations

MESSAGES = "messages[]"
# The items of Responses are messages, calls and their results.
ITEMS = "input[]"

# Labels: hints and bookkeeping of clients, which have no effect on the answer.
LABELS: dict[str, tuple[str, ...]] = {
    # vLLM's: which requests belong together.
    "": ("session_id",),
    "messages[]": ("cache_control", "id", "provider_specific_fields", "reasoning_details"),
    # The call's id already says which tool it was.
    "messages[role=tool]": ("name",),
    "messages[].content[]": (
        "cache_control",
        "id",
        "prompt_cache_breakpoint",
        "provider_specific_fields",
    ),
    "prediction.content[]": ("cache_control", "prompt_cache_breakpoint"),
    "messages[].tool_calls[]": ("cache_control", "index", "provider_specific_fields"),
    "messages[].tool_calls[].function": ("provider_specific_fields",),
    "messages[].function_call": ("provider_specific_fields",),
    "input[]": ("cache_control", "provider_specific_fields"),
    "input[].content[]": ("cache_control", "id", "provider_specific_fields"),
    "input[].output[]": ("cache_control", "id", "provider_specific_fields"),
    "tools[]": ("cache_control",),
    "tools[].function": ("cache_control",),
    # The schema itself is enforced, with or without `strict`.
    "response_format.json_schema": ("description", "name", "strict"),
}

TEXT_ONLY = "only text is supported: this server reads no images, audio, video or files"
CONTINUE = "set `continue_final_message` to true to have the last message continued"

# Keys of messages that change the answer of other servers, and what to use here.
REFUSED_KEYS: dict[str, str] = {
    "audio_url": TEXT_ONLY,
    "file": TEXT_ONLY,
    "image": TEXT_ONLY,
    "image_url": TEXT_ONLY,
    "images": TEXT_ONLY,
    "input_audio": TEXT_ONLY,
    "partial": CONTINUE,
    "prefix": CONTINUE,
    "tools": "declare tools in the request's `tools`",
    "video": TEXT_ONLY,
    "video_url": TEXT_ONLY,
    "videos": TEXT_ONLY,
}

# Fields of requests to vLLM and llama.cpp at the values that leave things there as they are here.
# That of a feature's detail is its default: the feature's own field is refused unless it is off.
NEUTRAL_VALUES: dict[str, tuple[bool | float | str, ...]] = {
    "adaptive_decay": (0.9,),
    "adaptive_target": (-1.0,),
    "backend_sampling": (False,),
    "cache_prompt": (True,),
    "dry_allowed_length": (2,),
    "dry_base": (1.75,),
    "dry_multiplier": (0.0,),
    "dry_penalty_last_n": (-1, 0),
    "dynatemp_exponent": (1.0,),
    "dynatemp_range": (0.0,),
    "echo": (False,),
    "grammar_lazy": (False,),
    "id_slot": (-1,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "min_keep": (0,),
    "mirostat": (0,),
    "mirostat_eta": (0.1,),
    "mirostat_tau": (5.0,),
    "n_cache_reuse": (0,),
    "n_cmpl": (1,),
    "n_discard": (0,),
    "n_indent": (0,),
    "n_keep": (0,),
    "n_predict": (-1,),
    "n_probs": (0,),
    "parse_tool_calls": (True,),
    "post_sampling_probs": (False,),
    "priority": (0,),
    "reasoning_budget_tokens": (-1,),
    "reasoning_control": (False,),
    "reasoning_format": ("auto", "deepseek"),
    "repeat_penalty": (1.0,),
    "return_mm_kwargs": (True,),
    "return_progress": (False,),
    "return_prompt_text": (False,),
    "return_token_ids": (False,),
    "return_token_offsets": (False,),
    "return_tokens": (False,),
    "return_tokens_as_token_ids": (False,),
    "routed_experts_prompt_start": (0,),
    "spaces_between_special_tokens": (True,),
    "stream_interval": (1,),
    "t_max_predict_ms": (-1, 0),
    "thinking_budget_tokens": (-1,),
    "thinking_forced_open": (False,),
    "timings_per_token": (False,),
    "top_n_sigma": (-1.0,),
    "typical_p": (1.0,),
    "use_beam_search": (False,),
    "verbose": (False,),
    "watermarking": (False,),
    "xtc_probability": (0.0,),
    "xtc_threshold": (0.1,),
}


def is_label(place: str, role: object, key: str) -> bool:
    """Whether `key` is a label in an object at `place`; `role` is the object's own."""
    return key in LABELS.get(place, ()) or (
        place == MESSAGES and role == "tool" and key in LABELS["messages[role=tool]"]
    )


def says_nothing(value: object) -> bool:
    """Whether an unknown value has no effect: null, empty, or an object with only nulls."""
    match value:
        case None:
            return True
        case str() | list():
            return not value
        case dict():
            return all(child is None for child in value.values())
        case _:
            return False


def is_in_message(place: str) -> bool:
    """Whether an object at `place` is a message or part of one."""
    return place in (MESSAGES, ITEMS) or place.startswith((f"{MESSAGES}.", f"{ITEMS}."))


def is_neutral(place: str, key: str, value: object) -> bool:
    """Whether a field of the request itself has a value that leaves a feature off."""
    return not place and any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        for neutral in NEUTRAL_VALUES.get(key, ())
    )


def is_turned_off(place: str, key: str, value: object) -> bool:
    """Whether a refused key of a message is false: `"prefix": false`."""
    return value is False and key in REFUSED_KEYS and is_in_message(place)
