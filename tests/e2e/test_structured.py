"""Answers constrained by a grammar: on the built-in model, and on models with random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import jsonschema
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.mortal import mortal

PEOPLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 4,
            "maxItems": 8,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 12},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                    "mood": {"enum": ["good", "bad", None]},
                },
                "required": ["name", "age", "mood"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
BOMB = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(10_000)}}


class Person(BaseModel):
    name: str
    age: int
    mood: Literal["good", "bad"]


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def ask(daemon: Daemon, prompt: str = "Tell me of people.", **fields: Any) -> httpx.Response:
    body = {"model": "default", "prompt": prompt, "max_tokens": 2000, "seed": 5, **fields}
    return plain_http.post(f"{daemon.url}/v1/completions", json=body)


def choice_of(response: httpx.Response) -> tuple[str, str]:
    """The answer's text and why it ended."""
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    return choice["text"], choice["finish_reason"]


@pytest.mark.parametrize("temperature", [0, 1, 2])
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen", "tiny-gemma"])
def test_a_model_that_babbles_keeps_to_the_schema(
    daemon: Daemon, model: str, temperature: float
) -> None:
    asked = {"temperature": temperature, "response_format": schema_format(PEOPLE)}
    fields: dict[str, Any] = {"model": model, **asked}
    text, reason = choice_of(ask(daemon, **fields))
    assert reason == "stop"
    jsonschema.validate(json.loads(text), PEOPLE)


def test_a_stream_and_a_plain_answer_and_each_of_n_are_held_to_it(
    client: openai.OpenAI,
) -> None:
    asked: Any = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": "Hello"}],
        "seed": 3,
        "response_format": schema_format(PEOPLE),
        "max_completion_tokens": 2000,
    }
    several = client.chat.completions.create(**asked, n=3, logprobs=True)
    texts = [choice.message.content or "" for choice in several.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), PEOPLE)
    assert len(set(texts)) == 3
    streamed = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == texts[0]


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ({"regex": r"[A-Z][a-z]{2,8} \d{4}"}, r"[A-Z][a-z]{2,8} \d{4}"),
        ({"choice": ["north", "south-east"]}, "north|south-east"),
        ({"grammar": 'start: "(" INT ("," INT)* ")"\nINT: /[0-9]{1,3}/'}, r"\(\d+(,\d+)*\)"),
        ({"grammar": 'root ::= "x" [0-9] "y"'}, r"x\dy"),
        ({"regex": " leading"}, " leading"),
    ],
)
def test_other_grammars_are_kept_too(daemon: Daemon, asked: Any, pattern: str) -> None:
    text, reason = choice_of(ask(daemon, structured_outputs=asked))
    assert (bool(re.fullmatch(pattern, text)), reason) == (True, "stop"), text


def test_an_answer_that_ran_out_of_tokens_says_so(daemon: Daemon) -> None:
    whole, _ = choice_of(ask(daemon, response_format=schema_format(PEOPLE)))
    text, reason = choice_of(ask(daemon, response_format=schema_format(PEOPLE), max_tokens=9))
    assert reason == "length"
    assert whole.startswith(text)


def test_least_tokens_do_not_outlast_the_grammar_and_stop_strings_cut_it(daemon: Daemon) -> None:
    asked = {"choice": ["one, two"]}
    assert choice_of(ask(daemon, structured_outputs=asked, min_tokens=50)) == ("one, two", "stop")
    assert choice_of(ask(daemon, structured_outputs=asked, stop=[","])) == ("one", "stop")


def test_a_schema_bomb_is_refused_in_its_time_and_streams_go_on(daemon: Daemon) -> None:
    async def run() -> tuple[httpx.Response, int]:
        tokens = 0
        async with plain_http.async_client(daemon.url) as client:
            body = {"model": "default", "prompt": "p", "max_tokens": 4000, "stream": True}
            body["ignore_eos"] = True  # it must outlast the bomb
            async with client.stream("POST", "/v1/completions", json=body) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                answers: list[httpx.Response] = []
                async with anyio.create_task_group() as tasks:

                    async def bomb() -> None:
                        fields = {"model": "default", "prompt": "p"}
                        format_ = schema_format(BOMB)
                        answers.append(
                            await client.post(
                                "/v1/completions", json={**fields, "response_format": format_}
                            )
                        )

                    tasks.start_soon(bomb)
                    while not answers:
                        await anext(lines)
                        tokens += 1
                return answers[0], tokens

    refused, tokens = anyio.run(run)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "response_format")
    assert "longer than" in error["message"]
    assert tokens > 20


@pytest.mark.long
def test_a_crash_is_a_pause_to_an_answer_held_to_a_schema(llama_path: Path) -> None:
    fields = {"response_format": schema_format(PEOPLE), "temperature": 1}
    with mortal(llama_path) as dying:
        undisturbed, _ = choice_of(ask(dying.daemon, "p", **fields))
        dying.end_after(50)
        assert choice_of(ask(dying.daemon, "p", **fields))[0] == undisturbed
        assert dying.restarts() == 1
    jsonschema.validate(json.loads(undisturbed), PEOPLE)


def test_the_openai_client_parses_into_a_model(demo: Daemon) -> None:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        parsed = client.chat.completions.parse(
            model="default",
            messages=[{"role": "user", "content": "Give me JSON: name and age of Anna, 30."}],
            response_format=Person,
            max_completion_tokens=200,
            temperature=0,
        )
    assert isinstance(parsed.choices[0].message.parsed, Person)
    assert parsed.choices[0].finish_reason == "stop"


def test_langchain_gets_structured_output(demo: Daemon) -> None:
    chat = ChatOpenAI(
        model="default",
        base_url=f"{demo.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=200,
    )
    answer = chat.with_structured_output(Person, method="json_schema").invoke("Who is Anna, 30?")
    assert isinstance(answer, Person)
