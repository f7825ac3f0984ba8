"""The page in a real browser: it shows the state of the service and has a chat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e import plain_http
from tests.e2e.browser import chromium, opened
from tests.e2e.daemon import Daemon, running
from tests.e2e.mortal import Mortal, mortal

# Lengths of answers in tokens. A long answer is still streaming while a test looks at it.
LONG, SHORT = 3500, 12
PHONE = {"width": 390, "height": 844}
ENDED = re.compile(r"\d+( \(\d+ cached\))? \+ \d+ tokens")


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Mortal]:
    with mortal(llama_path) as dying:
        yield dying


@pytest.fixture(scope="module")
def own_daemon(own: Mortal) -> Daemon:
    return own.daemon


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, own_daemon: Daemon) -> Iterator[Page]:
    with opened(browser, own_daemon.url) as page:
        expect(page.locator("#state")).to_have_text("healthy")
        yield page


def send(page: Page, tokens: int, text: str = "hello") -> None:
    """Send a message with the keyboard only."""
    page.evaluate("document.querySelector('#composer details').open = true")
    page.fill("#longest", str(tokens))
    page.fill("#temperature", "0")
    page.focus("#prompt")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def text_of(page: Page) -> str:
    """The text of the latest answer so far."""
    return page.locator(".message.assistant .text").last.text_content() or ""


def wait_longer(page: Page, than: int) -> None:
    """Wait until the latest answer has more than `than` characters."""
    page.wait_for_function(
        "length => [...document.querySelectorAll('.message.assistant .text')]"
        ".at(-1).textContent.length > length",
        arg=than,
    )


def test_an_answer_streams_and_ends_with_its_usage(page: Page) -> None:
    send(page, SHORT)
    meta = page.locator(".message.assistant .meta")
    expect(meta).to_contain_text(ENDED)
    expect(meta).to_contain_text(f"+ {SHORT} tokens")
    expect(meta).to_contain_text("length")
    assert text_of(page)
    expect(page.locator("#send")).to_have_text("Send")


def test_text_appears_while_the_answer_is_generated(page: Page) -> None:
    send(page, LONG)
    wait_longer(page, 0)
    seen = len(text_of(page))
    wait_longer(page, seen)
    expect(page.locator("#send")).to_have_text("Stop")
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_have_text("Send")


def test_stopping_keeps_the_text_and_ends_the_generation(page: Page, own_daemon: Daemon) -> None:
    send(page, LONG)
    wait_longer(page, 20)
    page.click("#send")
    expect(page.locator(".message.assistant .meta")).to_have_text("stopped")
    own_daemon.wait_until("requests.running", be=0)
    text = text_of(page)
    assert text
    send(page, SHORT, "and now")
    expect(page.locator(".message.assistant .meta").last).to_contain_text(ENDED)
    assert (page.locator(".message.assistant .text").first.text_content() or "") == text


def test_a_killed_worker_shows_as_restarting_and_the_answer_completes(
    page: Page, own: Mortal
) -> None:
    before = own.restarts()
    own.end_after(100)
    meta = page.locator(".message.assistant .meta")
    with own.held():
        send(page, 300)
        expect(page.locator("#state")).to_have_text("restarting")
        expect(meta).to_contain_text("then this answer continues")
    expect(meta).to_contain_text("+ 300 tokens")
    expect(page.locator("#state")).to_have_text("healthy")
    expect(page.locator("#recent tbody tr").first).to_contain_text("resumed")
    worker = page.locator("#worker")
    expect(worker).to_contain_text(f"Restarts{before + 1}")
    expect(worker).to_contain_text("signal SIGKILL, while busy")


def test_the_state_of_the_service_is_shown_live(page: Page, own_daemon: Daemon) -> None:
    expect(page.locator("#models")).to_contain_text("tiny-llama")
    expect(page.locator("#memory .bar")).to_have_attribute("aria-label", re.compile("in use"))
    send(page, LONG)
    expect(page.locator("#tile-running")).to_have_text(re.compile("^1 of"))
    expect(page.locator("#tile-speed")).not_to_have_text("0")
    expect(page.locator("#chart-speed .reading")).to_contain_text("up to")
    page.click("#send")
    expect(page.locator("#recent tbody tr").first).to_contain_text("client disconnected")
    expect(page.locator("#tile-running")).to_have_text(re.compile("^0 of"))


def test_the_status_contains_no_prompt_and_no_answer(page: Page, own_daemon: Daemon) -> None:
    send(page, SHORT, "xylophone")
    expect(page.locator(".message.assistant .meta")).to_contain_text(ENDED)
    answer = text_of(page)
    assert answer
    status = plain_http.get(f"{own_daemon.url}/status").text
    assert "xylophone" not in status
    assert answer not in status


def test_markup_in_a_message_stays_text(page: Page) -> None:
    send(page, SHORT, "<img src=x onerror=alert(1)>")
    expect(page.locator(".message.assistant .meta")).to_contain_text(ENDED)
    expect(page.locator(".message.user .text")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#messages img").count() == 0


def test_a_stopped_service_is_shown_as_not_reachable(browser: Browser, llama_path: Path) -> None:
    with running(llama_path) as daemon:
        page = browser.new_page()
        page.goto(daemon.url)
        expect(page.locator("#state")).to_have_text("healthy")
        daemon.stop()
        expect(page.locator("#state")).to_have_text("not reachable")
        page.close()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    browser: Browser, own_daemon: Daemon, scheme: str
) -> None:
    with opened(
        browser, own_daemon.url, viewport=PHONE, color_scheme=scheme, has_touch=True
    ) as page:
        expect(page.locator("#state")).to_have_text("healthy")
        for view in ("service", "chat"):
            page.tap(f"[data-show={view}]")
            expect(page.locator(f"#{view}")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.fill("#prompt", "hello")
        page.tap("#send")
        expect(page.locator(".message.assistant")).to_be_visible()
        page.tap("#send")


def test_the_page_asks_for_a_key_and_stores_it_for_the_tab_only(
    browser: Browser, llama_path: Path
) -> None:
    with running(llama_path, environ={"MLXD_API_KEYS": "alice:secret-key-0123456789"}) as daemon:
        page = browser.new_page()
        page.goto(daemon.url)
        expect(page.locator("#key-dialog")).to_be_visible()
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-refused")).to_be_visible()
        page.fill("#key", "secret-key-0123456789")
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("healthy")
        send(page, SHORT)
        expect(page.locator(".message.assistant .meta")).to_contain_text(ENDED)
        assert page.evaluate("localStorage.length") == 0
        page.close()
        daemon.stop()
        assert '"key":"alice"' in daemon.output
        assert "secret" not in daemon.output


def test_a_long_prompt_has_a_bar_while_it_is_read(browser: Browser, llama_path: Path) -> None:
    flags = ["--prefill-step-tokens", "4"]
    with running(llama_path, flags=flags) as daemon, opened(browser, daemon.url) as page:
        expect(page.locator("#state")).to_have_text("healthy")
        page.evaluate(
            """() => {
              window.bars = [];
              new MutationObserver(() => {
                const bar = document.querySelector(".message progress");
                if (bar) window.bars.push(bar.value / bar.max);
              }).observe(document.querySelector("#messages"), { childList: true, subtree: true,
                attributes: true });
            }"""
        )
        page.fill("#prompt", "the quick brown fox jumps over the lazy dog. " * 30)
        send(page, SHORT, "Go on.")
        expect(page.locator(".message.assistant .meta")).to_contain_text(ENDED)
        bars = page.evaluate("window.bars")
        assert bars
        assert all(0 < bar < 1 for bar in bars)
        expect(page.locator(".message progress")).to_have_count(0)
        expect(page.locator("#in-flight-card")).to_be_hidden()
