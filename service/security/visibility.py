"""What a caller may learn of the machine: all, all but file paths, or the status alone."""

from __future__ import annotations

import enum
import re

from starlette.types import Scope

from service.errors import (
    GenerationFailed,
    InternalError,
    MlxdError,
    ModelBusy,
    ModelLoadFailed,
    WorkerCrashed,
    WorkerUnavailable,
)

STATE = "visibility"
# A slash that begins a path: not one in a word (`org/name`), in a URL or in a closing tag.
PATH = re.compile(
    r"(?:file:|(?<![\w)\]}./<-])(?<!http:)(?<!https:))(?:~[\w.-]*|\.{1,2})?/+[^\s/]", re.IGNORECASE
)
QUOTES = "'\"`"
CONCEALED = "(the rest names files of the machine: only administrators see it)"
# Errors whose text comes from the worker, and so from the machine; others quote the client.
WORKER_ERRORS = (
    GenerationFailed,
    InternalError,
    ModelBusy,
    ModelLoadFailed,
    WorkerCrashed,
    WorkerUnavailable,
)


class Visibility(enum.Enum):
    """How much of the machine a caller may see."""

    ALL = "all"
    WITHOUT_PATHS = "without paths"
    STATUS = "status"


def set_visibility(scope: Scope, visibility: Visibility) -> None:
    """Store what the caller of the request may see."""
    scope.setdefault("state", {})[STATE] = visibility


def visibility_of(scope: Scope) -> Visibility:
    """What the caller of the request may see: the status alone if nothing is known of it."""
    visibility = scope.get("state", {}).get(STATE, Visibility.STATUS)
    assert isinstance(visibility, Visibility)
    return visibility


def visible(text: str, scope: Scope) -> str:
    """`text` as the caller may see it."""
    return text if visibility_of(scope) is Visibility.ALL else conceal_paths(text)


def conceal_paths(text: str) -> str:
    """`text` up to its first path. A path may have spaces, so its end is unknown."""
    match = PATH.search(text)
    return text if match is None else text[: match.start()].rstrip(QUOTES) + CONCEALED


def visible_error(error: MlxdError, scope: Scope) -> MlxdError:
    """`error` with its text as the caller may see it; it is the same object."""
    if isinstance(error, WORKER_ERRORS):
        error.message = visible(error.message, scope)
    return error
