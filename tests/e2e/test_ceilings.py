"""`max_tokens` of a real service: a ceiling that is cut to the context, or strict by a setting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.keys import KEYS, PLAIN, bearer
from tests.e2e.mortal import mortal

CONTEXT_TOKENS = 120
# What Claude Code sends, and the largest that is taken.
CEILINGS = (32_000, 2**31 - 1)
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
    TEXT: {"prompt": "Hello"},
}
LIMITS = [(CHAT, "max_tokens"), (CHAT, "max_completion_tokens"), (TEXT, "max_tokens")]


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Daemon]:
    """A service with a short context."""
    with running(llama_path, flags=["--context-limit-tokens", str(CONTEXT_TOKENS)]) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def strict(llama_path: Path) -> Iterator[Daemon]:
    """The same with the strict setting."""
    flags = ["--context-limit-tokens", str(CONTEXT_TOKENS), "--strict-max-tokens", "on"]
    with running(llama_path, flags=flags) as daemon:
        yield daemon


def ask(daemon: Daemon, path: str, **fields: Any) -> httpx.Response:
    body = {"model": "default", "temperature": 0, **PROMPTS[path], **fields}
    return plain_http.post(f"{daemon.url}{path}", json=body)


@pytest.mark.parametrize(
    ("path", "limit", "most"),
    [*((path, limit, CEILINGS[0]) for path, limit in LIMITS), (*LIMITS[-1], CEILINGS[1])],
)
def test_a_limit_above_the_context_is_cut_to_it(
    own: Daemon, path: str, limit: str, most: int
) -> None:
    answer = ask(own, path, **{limit: most}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == CONTEXT_TOKENS
    unlimited = ask(own, path, **{limit: CONTEXT_TOKENS - answer["usage"]["prompt_tokens"]}).json()
    assert answer["choices"][0] == unlimited["choices"][0]


@pytest.mark.parametrize(("path", "limit"), LIMITS)
def test_a_stream_is_cut_too_and_says_so(own: Daemon, path: str, limit: str) -> None:
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        create: Any = client.chat.completions.create if path == CHAT else client.completions.create
        options = {"include_usage": True}
        asked = {"model": "default", "temperature": 0, **PROMPTS[path], limit: CEILINGS[0]}
        chunks = list(create(**asked, stream=True, stream_options=options))
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.total_tokens == CONTEXT_TOKENS


def test_each_of_several_answers_is_cut(own: Daemon) -> None:
    several = ask(own, TEXT, max_tokens=CEILINGS[0], n=2, best_of=3, temperature=1, seed=5).json()
    usage = several["usage"]
    assert {choice["finish_reason"] for choice in several["choices"]} == {"length"}
    assert usage["completion_tokens"] == 3 * (CONTEXT_TOKENS - usage["prompt_tokens"])


def test_a_prompt_of_the_whole_context_has_no_room_for_an_answer_but_can_be_scored(
    own: Daemon,
) -> None:
    prompt = [300] * CONTEXT_TOKENS
    refused = ask(own, TEXT, prompt=prompt, max_tokens=CEILINGS[0])
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert error["message"].startswith(
        f"This model's maximum context length is {CONTEXT_TOKENS} tokens, "
    )
    scored = ask(own, TEXT, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    assert scored.status_code == 200
    last = ask(own, TEXT, prompt=prompt[1:], max_tokens=CEILINGS[0])
    assert last.json()["usage"]["completion_tokens"] == 1


def test_min_tokens_above_the_room_is_refused(own: Daemon) -> None:
    refused = ask(own, TEXT, max_tokens=CEILINGS[0], min_tokens=CONTEXT_TOKENS)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "min_tokens")


@pytest.mark.parametrize(("path", "limit"), LIMITS)
def test_the_strict_setting_refuses_what_does_not_fit(
    strict: Daemon, path: str, limit: str
) -> None:
    refused = ask(strict, path, **{limit: CONTEXT_TOKENS})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == ("messages" if path == CHAT else "prompt")
    assert f"maximum context length is {CONTEXT_TOKENS} tokens" in error["message"]
    assert f"{CONTEXT_TOKENS} in the answer" in error["message"]
    assert ask(strict, path, **{limit: 2}).status_code == 200


def test_capabilities_and_the_description_say_which_rule_is_on(own: Daemon, strict: Daemon) -> None:
    for daemon, rule, words in ((own, "ceiling", "holds no more"), (strict, "strict", "gets 400")):
        [told] = plain_http.get(f"{daemon.url}/v1/capabilities").json()["data"]
        assert told["max_tokens_rule"] == rule
        paths = plain_http.get(f"{daemon.url}/openapi.json").json()["paths"]
        assert all(words in paths[path]["post"]["description"] for path in PROMPTS)


def test_a_ceiling_takes_no_more_of_a_keys_tokens_than_the_answer_has(llama_path: Path) -> None:
    limit = CONTEXT_TOKENS + 50
    flags = ["--context-limit-tokens", str(CONTEXT_TOKENS), "--key-tokens-per-minute", str(limit)]
    with running(llama_path, flags=flags, environ=KEYS) as daemon:
        body = {"model": "default", "max_tokens": CEILINGS[0], **PROMPTS[TEXT]}
        answer = plain_http.post(f"{daemon.url}{TEXT}", json=body, headers=bearer(PLAIN))
    used = answer.json()["usage"]["total_tokens"]
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) >= limit - used > 0


@pytest.mark.long
def test_a_crash_does_not_change_where_an_answer_is_cut(llama_path: Path) -> None:
    with mortal(llama_path) as dying:
        whole = ask(dying.daemon, TEXT, max_tokens=CEILINGS[0]).json()
        dying.end_after(500)
        resumed = ask(dying.daemon, TEXT, max_tokens=CEILINGS[0]).json()
        assert dying.restarts() == 1
    assert resumed["choices"] == whole["choices"]
    assert resumed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
