"""How many tokens an answer took."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request; `completion_tokens` counts the ending token too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
