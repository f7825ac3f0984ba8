"""Reads JSON of which nothing is certain: what cannot be used is a problem to report, no error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

MAX_TOKEN_ID = 2**31 - 1


def read_object(file: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON object in a file, and the problem of what is none; empty if it says nothing."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.strip() else None
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"it is ignored: {error}"
    if content is None:
        return {}, None
    return (content, None) if isinstance(content, dict) else ({}, "it is ignored: it is no object")


def parse_token_ids(value: object) -> tuple[frozenset[int], str | None]:
    """The token ids of a value, one or several, and the problem of those that are none."""
    values = value if isinstance(value, list) else [value]
    ids = [each for each in values if is_token_id(each)]
    others = [each for each in values if each is not None and not is_token_id(each)]
    problem = f"is ignored: {json.dumps(others)[:100]} is no token id" if others else None
    return frozenset(ids), problem


def is_token_id(value: object) -> TypeGuard[int]:
    """Whether a JSON value is the id of a token."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKEN_ID
