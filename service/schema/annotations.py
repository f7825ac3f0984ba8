"""The unknown keys that clients add to a request: which are labels, and which are refused.

A place is a path without indexes: `messages[].tool_calls[]`. A key that has no row here and no
field in the request's struct is refused or ignored by the setting `unknown_fields`, unless its
value says nothing.
"""

from __future__ import annotations

MESSAGES = "messages[]"

# Labels: hints and bookkeeping of clients, which have no effect on the answer.
LABELS: dict[str, tuple[str, ...]] = {
    "messages[]": ("cache_control", "id", "provider_specific_fields", "reasoning_details"),
    # The call's id already says which tool it was.
    "messages[role=tool]": ("name",),
    "messages[].content[]": (
        "cache_control",
        "id",
        "prompt_cache_breakpoint",
        "provider_specific_fields",
    ),
    "messages[].tool_calls[]": ("cache_control", "index", "provider_specific_fields"),
    "messages[].tool_calls[].function": ("provider_specific_fields",),
    "messages[].function_call": ("provider_specific_fields",),
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
    return place == MESSAGES or place.startswith(f"{MESSAGES}.")


def is_turned_off(place: str, key: str, value: object) -> bool:
    """Whether a refused key of a message is false: `"prefix": false`."""
    return value is False and key in REFUSED_KEYS and is_in_message(place)
