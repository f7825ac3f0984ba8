"""The JSON of a response: of a stream's events or of the whole body."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

Body = dict[str, Any]


async def parts_of(response: httpx.Response, *, stream: bool) -> AsyncIterator[Any]:
    """The JSON of a stream's events, which must end in [DONE], or of the one body."""
    if not stream:
        await response.aread()
        yield response.json()
        return
    last = ""
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
        last = line or last
    assert last == "data: [DONE]"
