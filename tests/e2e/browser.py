"""A real Chromium, driven by Playwright: the system's own, found by its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    expect,
    sync_playwright,
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Of a busy machine; what comes sooner is not waited for.
TIMEOUT_MS = 60_000
# Chromium's own sandbox needs rights that a container's root does not have.
ARGUMENTS = ("--no-sandbox",)


def find_chromium() -> str:
    """The system's Chromium. Where there is none the test is skipped, but in CI it fails."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    reason = f"there is no Chromium: none of {', '.join(NAMES)} is on the PATH"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    path = find_chromium()
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """What a page said on its console and should not have, and what broke in it."""

    def __init__(self, page: Page) -> None:
        self.told: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", self._note_error)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.told.append(f"{message.type}: {message.text} ({message.location})")

    def _note_error(self, error: Error) -> None:
        self.told.append(f"uncaught: {error.message}")


@contextmanager
def opened(browser: Browser, url: str, **how: object) -> Iterator[Page]:
    """A page at `url`; anything it complains of fails the test."""
    page = browser.new_page(**how)  # type: ignore[arg-type]
    page.set_default_timeout(TIMEOUT_MS)
    complaints = Complaints(page)
    try:
        page.goto(url)
        yield page
        assert complaints.told == []
    finally:
        page.close()
