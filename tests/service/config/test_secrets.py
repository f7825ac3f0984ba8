"""Passwords and keys in URLs are recognised, and are not in shown text."""

from __future__ import annotations

import pytest

from service.config.secrets import conceal_secrets, has_secret


@pytest.mark.parametrize(
    "value",
    [
        "https://user:hunter2@host/path",
        "https://hunter2@host",
        "http://user:hunter2/x@host:1",
        "http://user:hunter2@x@host:1",
        "https://host/?api_key=hunter2",
        "https://host/p?a=b&Access-Token=hunter2#c",
        "socks5h://:hunter2@host",
    ],
)
def test_a_secret_in_a_url_is_concealed(value: str) -> None:
    assert has_secret(value)
    for text in (value, f"cannot reach '{value}': refused", f"{value} and {value}"):
        shown = conceal_secrets(text)
        assert "hunter2" not in shown
        assert "host" in shown


def test_a_proxy_without_a_scheme_may_have_a_secret() -> None:
    assert has_secret("user:hunter2@host:3128")


@pytest.mark.parametrize(
    "value",
    ["", "/home/me@work/model", "http://host:4318/v1?timeout=3", "127.0.0.1", "a.b,c.d", "C@x"],
)
def test_other_values_are_left_alone(value: str) -> None:
    assert not has_secret(value)
    assert conceal_secrets(value) == value
