"""With drafts a service gives the same answers as without, and says what was drafted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.mortal import Mortal, mortal
from tests.waiting import wait_for

TOKENS = 90
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PLAIN, DRAFTED, MODELLED = "plain", "drafted", "modelled"
# Few tokens, so that an answer of random weights repeats itself.
FEW = {str(token): 60 for token in range(300, 306)}
# What the answers count, and what the device computes.
DRAFT_COUNTERS = ("mlxd_prediction_", "mlxd_draft_tokens_total")
LOOP = "one two three one two three one two three"
BODY = {"max_tokens": TOKENS, "ignore_eos": True, "logit_bias": FEW}
FIELDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.3, "seed": 5},
    {"temperature": 0, "logprobs": 2},
    {"temperature": 0, "presence_penalty": 0.5},
    {"temperature": 0.8, "seed": 3, "n": 3},
    {"temperature": 0, "max_tokens": 7},
]


@pytest.fixture(scope="module")
def dying(llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    """A service with one model three times: without drafts, with them, and with a draft model."""
    config = tmp_path_factory.mktemp("speculation") / "mlxd.toml"
    table = '[[models]]\nid = "{}"\nspeculation = "{}"\nsource = "{}"\npreload = true\n'
    modes = ((PLAIN, "off"), (DRAFTED, "on"), (MODELLED, "on"))
    tables = "".join(table.format(id, mode, llama_path) for id, mode in modes)
    config.write_text(f'{tables}draft_model = "{llama_path}"\n')
    with mortal(flags=["--config", str(config)]) as dying:
        yield dying


@pytest.fixture(scope="module")
def api(dying: Mortal) -> Iterator[httpx.Client]:
    with plain_http.client(dying.daemon.url) as api:
        yield api


def ask(api: httpx.Client, model: str, prompt: str = LOOP, **fields: Any) -> dict[str, Any]:
    response = api.post(TEXT, json={"model": model, "prompt": prompt, **BODY, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def details_of(answer: dict[str, Any]) -> tuple[int, int]:
    """The drafted tokens that were accepted, and that were rejected."""
    details = answer["usage"]["completion_tokens_details"]
    return details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]


def choices_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(choice["text"], choice["finish_reason"]) for choice in answer["choices"]]


def test_a_text_that_repeats_itself_is_drafted_and_counted(api: httpx.Client) -> None:
    answer = ask(api, DRAFTED, temperature=0)
    accepted, rejected = details_of(answer)
    usage = answer["usage"]
    assert 0 < accepted < usage["completion_tokens"] == TOKENS
    assert usage["mlxd"]["accepted_prediction_tokens"] == accepted
    assert usage["mlxd"]["rejected_prediction_tokens"] == rejected
    assert details_of(ask(api, PLAIN, temperature=0)) == (0, 0)
    models = {each["id"]: each for each in api.get("/v1/capabilities").json()["data"]}
    assert models[DRAFTED]["speculation"] == {"on": True, "reason": ""}
    assert models[PLAIN]["speculation"]["on"] is False
    [total] = [
        float(line.split()[-1])
        for line in api.get("/metrics").text.splitlines()
        if line.startswith("mlxd_prediction_accepted_tokens_total")
    ]
    assert total >= accepted


def test_a_draft_model_is_shown_with_what_it_weighs(api: httpx.Client) -> None:
    models = {each["id"]: each for each in api.get("/v1/capabilities").json()["data"]}
    draft = models[MODELLED]["draft_model"]
    assert draft["name"] == "tiny-llama"
    assert draft["weight_bytes"] > 0
    assert models[DRAFTED]["draft_model"] is None


def test_drafts_are_counted_by_their_source(api: httpx.Client) -> None:
    ask(api, DRAFTED, temperature=0)
    lines = api.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("mlxd_draft_tokens_total{")]
    [accepted] = [each for each in counts if 'source="text"' in each and '"accepted"' in each]
    assert float(accepted.split()[-1]) > 0


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"max_tokens": 3, "right": 2}, id="wrong behind the first token"),
        pytest.param({"max_tokens": 8, "right": 4}, id="wrong later"),
        pytest.param({"max_tokens": 30, "right": 30, "stop_at": 6}, id="stop string"),
        pytest.param({"max_tokens": 30, "right": 5, "stop_at": 4, "n": 2}, id="both, twice"),
    ],
)
def test_usage_and_metrics_count_each_drafted_token(
    api: httpx.Client, fields: dict[str, int]
) -> None:
    words = ask_chat(api, max_tokens=30, logprobs=True)["choices"][0]["logprobs"]["content"]
    tokens = [word["token"] for word in words]
    prediction = "".join(tokens[: fields["right"]]) + " wrong words, here and there"
    body: dict[str, Any] = {"max_tokens": fields["max_tokens"], "n": fields.get("n", 1)}
    if "stop_at" in fields:
        body["stop"] = tokens[fields["stop_at"]]
    before = [count_drafted(api, name) for name in DRAFT_COUNTERS]
    answer = ask_chat(api, prediction={"type": "content", "content": prediction}, **body)
    counted = sum(details_of(answer))
    assert counted > 0

    def are_counted() -> bool:
        after = [count_drafted(api, name) for name in DRAFT_COUNTERS]
        return [new - old for new, old in zip(after, before, strict=True)] == [counted, counted]

    wait_for(are_counted, lambda: f"{details_of(answer)} and {before}")


def ask_chat(api: httpx.Client, **fields: Any) -> dict[str, Any]:
    """A greedy chat of the model with drafts."""
    message = {"role": "user", "content": "Say a long thing about foxes"}
    body = {"model": DRAFTED, "messages": [message], "temperature": 0, "ignore_eos": True}
    response = api.post(CHAT, json={**body, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def count_drafted(api: httpx.Client, name: str) -> float:
    """The sum of all series of a counter."""
    lines = api.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("fields", FIELDS)
def test_the_answer_is_the_same_with_drafts_and_without(
    api: httpx.Client, fields: dict[str, Any]
) -> None:
    plain, *others = (ask(api, model, **fields) for model in (PLAIN, DRAFTED, MODELLED))
    for drafted in others:
        assert choices_of(drafted) == choices_of(plain)
        assert drafted["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]


@pytest.mark.parametrize("fields", [FIELDS[0], pytest.param(FIELDS[1], marks=pytest.mark.long)])
def test_an_answer_with_drafts_goes_on_after_a_crash(
    dying: Mortal, api: httpx.Client, fields: dict[str, Any]
) -> None:
    plain = ask(api, PLAIN, **fields)
    restarts = dying.restarts()
    dying.end_after(5)
    drafted = ask(api, DRAFTED, **fields)
    assert dying.restarts() == restarts + 1
    assert choices_of(drafted) == choices_of(plain)
    assert 0 < details_of(drafted)[0] < drafted["usage"]["completion_tokens"] == TOKENS


def test_a_stop_string_within_a_drafted_run_ends_the_answer_there(api: httpx.Client) -> None:
    whole = ask(api, PLAIN, temperature=0)["choices"][0]["text"]
    for start in range(len(whole) // 2, len(whole) - 3, 15):
        stop = whole[start : start + 3]
        plain, drafted = (ask(api, m, temperature=0, stop=[stop]) for m in (PLAIN, DRAFTED))
        assert choices_of(drafted) == choices_of(plain)
        assert drafted["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
        assert sum(details_of(drafted)) >= details_of(drafted)[0]


def test_a_stream_has_the_text_of_the_answer(api: httpx.Client) -> None:
    whole = ask(api, PLAIN, temperature=0)["choices"][0]["text"]
    body = {"model": DRAFTED, "prompt": LOOP, **BODY, "temperature": 0, "stream": True}
    with api.stream("POST", TEXT, json=body) as response:
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    assert "".join(each["choices"][0]["text"] for each in chunks if each["choices"]) == whole


def test_rows_at_once_and_the_turns_after_them_are_the_same(api: httpx.Client) -> None:
    prompts = [f"{LOOP} {'and ' * n}" for n in range(5)]
    plain = [ask(api, PLAIN, prompt, temperature=0) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        drafted = list(pool.map(lambda p: ask(api, DRAFTED, p, temperature=0), prompts))
    assert list(map(choices_of, drafted)) == list(map(choices_of, plain))
    for prompt, answer in zip(prompts, drafted, strict=True):
        turn = prompt + answer["choices"][0]["text"] + " three one"
        first, second = (ask(api, model, turn, temperature=0) for model in (DRAFTED, PLAIN))
        assert choices_of(first) == choices_of(second)


def test_a_prediction_changes_no_answer_and_a_wrong_one_is_taken(api: httpx.Client) -> None:
    def chat(model: str, prediction: object) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": LOOP}],
            "max_tokens": 40,
            "temperature": 0,
            "logit_bias": FEW,
            "prediction": {"type": "content", "content": prediction},
        }
        response = api.post(CHAT, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    plain = chat(PLAIN, "anything")
    text = plain["choices"][0]["message"]["content"]
    assert details_of(plain) == (0, 0)
    for prediction in (text, [{"type": "text", "text": text[:20]}], "", "something else"):
        assert chat(DRAFTED, prediction)["choices"] == plain["choices"]


@pytest.mark.parametrize(
    ("model", "fields", "support", "ignored"),
    [
        (PLAIN, {}, "label", "prediction"),
        (DRAFTED, {}, "honoured", None),
        (DRAFTED, {"presence_penalty": 0.5}, "honoured", "prediction"),
        (DRAFTED, {"structured_outputs": {"regex": "a{9}"}}, "honoured", "prediction"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prediction_that_is_not_used_is_named_and_counts_nothing(
    api: httpx.Client,
    model: str,
    fields: dict[str, Any],
    support: str,
    ignored: str | None,
    stream: bool,
) -> None:
    models = {each["id"]: each for each in api.get("/v1/capabilities").json()["data"]}
    assert models[model]["endpoints"][CHAT]["prediction"] == {"support": support}
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": LOOP}],
        "max_tokens": 9,
        "temperature": 0,
        "prediction": {"type": "content", "content": LOOP},
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    response = api.post(CHAT, json={**body, **fields})
    assert response.headers.get("x-mlxd-ignored") == ignored
    answer = response.json() if not stream else last_event(response)
    assert ignored is None or details_of(answer) == (0, 0)
    del body["prediction"]
    assert "x-mlxd-ignored" not in api.post(CHAT, json={**body, **fields}).headers


def last_event(response: httpx.Response) -> dict[str, Any]:
    """The last chunk of a stream that has ended."""
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    chunk: dict[str, Any] = json.loads(lines[-1])
    return chunk


@pytest.mark.parametrize("prediction", [{"type": "content"}, {"type": "x", "content": ""}, "x"])
def test_a_malformed_prediction_is_refused_by_name(api: httpx.Client, prediction: Any) -> None:
    body = {"model": PLAIN, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    response = api.post(CHAT, json={**body, "prediction": prediction})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("prediction")
