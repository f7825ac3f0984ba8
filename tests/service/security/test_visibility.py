"""File paths are for administrators; other callers get a text up to its first path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, MlxdError, ModelLoadFailed, WorkerUnavailable
from service.security.visibility import (
    CONCEALED,
    Visibility,
    conceal_paths,
    set_visibility,
    visible_error,
)

SECRET = "srv/private folder/of-bob: x"
BEFORE = (
    "",
    "no folder ",
    "No such file: '",
    'cannot read "',
    "model=",
    "at:",
    "(",
    "[",
    "<module from '",
    "file://",
    "FILE:",
    "a, ",
    "a|",
    "\n",
    "→",
)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("root", ["/", "//", "~/", "~bob/", "./", "../"])
def test_nothing_of_a_path_is_left(before: str, root: str) -> None:
    shown = conceal_paths(f"{before}{root}{SECRET}")
    assert shown.endswith(CONCEALED)
    assert not any(word in shown for word in ("srv", "private", "folder/of", "bob"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the model mlx-community/Qwen3-4B-4bit is not downloaded",
        "see https://huggingface.co/docs/hub",
        "needs 3 / 4 of the memory, 12 GiB/s, and/or text/plain",
        "the template has no </tool_call>",
        "the worker exited: SIGKILL, out of memory?",
    ],
)
def test_a_text_without_a_path_is_shown_whole(text: str) -> None:
    assert conceal_paths(text) == text


@given(st.text(), st.text())
def test_what_follows_a_path_is_never_shown(before: str, after: str) -> None:
    shown = conceal_paths(f"{before} /hidden{after}")
    assert "hidden" not in shown.removeprefix(conceal_paths(before))


@pytest.mark.parametrize("visibility", list(Visibility))
@pytest.mark.parametrize("kind", [ModelLoadFailed, WorkerUnavailable])
def test_only_who_may_see_all_gets_the_paths_of_an_error(
    visibility: Visibility, kind: type[MlxdError]
) -> None:
    scope: dict[str, object] = {}
    set_visibility(scope, visibility)
    error = visible_error(kind("m: /srv/x is no folder"), scope)
    assert ("/srv" in error.message) == (visibility is Visibility.ALL)
    assert error.message.startswith("m: ")


def test_an_error_about_the_client_s_own_text_is_left_alone() -> None:
    error = visible_error(InvalidRequest("`/etc/passwd` is not a choice"), {})
    assert error.message == "`/etc/passwd` is not a choice"
