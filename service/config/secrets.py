"""Secrets inside values, such as a password in a URL: recognised, and replaced in shown text."""

from __future__ import annotations

import re

CONCEALED = "***"
WORDS = "token|key|secret|passw|auth|signature|sig|credential|cookie"
NAMES = rf"[^\s=&?#]*(?:{WORDS})[^\s=&?#]*"
# The user in a URL, and before a proxy's host. A password may have a slash or an `@` itself.
USER = re.compile(r"(?P<before>://)[^\s'\"<>]*(?P<after>@)")
SECRET_NAME = re.compile(WORDS, re.IGNORECASE)
BARE_USER = re.compile(r"[^\s/@]+:\S*@[^\s/@]+")
PARAMETER = re.compile(rf"(?P<before>[?&]{NAMES}=)[^\s&#'\"<>]+(?P<after>)", re.IGNORECASE)


def names_secret(name: str) -> bool:
    """Whether a header with this name is likely to have a secret."""
    return bool(SECRET_NAME.search(name))


def has_secret(value: str) -> bool:
    """Whether the value of a setting has a user or a password in a URL, or a key in its query."""
    return bool(USER.search(value) or PARAMETER.search(value) or BARE_USER.fullmatch(value))


def conceal_secrets(text: str) -> str:
    """`text`, with users, passwords and keys in URLs replaced."""
    if "://" not in text:
        return text
    for pattern in (USER, PARAMETER):
        text = pattern.sub(rf"\g<before>{CONCEALED}\g<after>", text)
    return text
