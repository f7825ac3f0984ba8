"""The `openai` package, as its users use it, against the real service."""

from __future__ import annotations

from pathlib import Path

import anyio
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.daemon import Daemon
from tests.oracle import chat_tokens, decode, greedy_text, greedy_tokens, text_tokens

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi"}]},
]
# The same conversation, as a template reads it.
PLAIN = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Say hi"}]
TOKENS = 40


def test_a_chat_answer_is_mlx_lms_own_text_for_every_family(
    client: openai.OpenAI, model_paths: dict[str, Path]
) -> None:
    for path in model_paths.values():
        answer = client.chat.completions.create(
            model=path.name, messages=MESSAGES[1:], temperature=0, max_tokens=TOKENS
        )
        prompt = chat_tokens(path, PLAIN[1:])
        assert answer.choices[0].message.content == greedy_text(path, prompt, TOKENS)
        assert answer.choices[0].message.role == "assistant"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(prompt)
        assert answer.usage.total_tokens == len(prompt) + answer.usage.completion_tokens


def test_a_stream_has_the_role_first_then_the_text_then_the_reason_then_the_usage(
    client: openai.OpenAI, llama_path: Path
) -> None:
    chunks = list(
        client.chat.completions.create(
            model="default",
            messages=MESSAGES,
            temperature=0,
            max_completion_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == greedy_text(llama_path, chat_tokens(llama_path, PLAIN), TOKENS)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == TOKENS
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_a_stream_and_a_plain_answer_are_the_same_text(client: openai.OpenAI) -> None:
    def ask(seed: int) -> tuple[str, str]:
        plain = client.chat.completions.create(
            model="default", messages=MESSAGES, seed=seed, max_tokens=TOKENS, stop=["e", "qu"]
        )
        stream = client.chat.completions.create(
            model="default",
            messages=MESSAGES,
            seed=seed,
            max_tokens=TOKENS,
            stop=["e", "qu"],
            stream=True,
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return plain.choices[0].message.content or "", streamed

    for seed in range(8):
        plain, streamed = ask(seed)
        assert plain == streamed
        assert "e" not in plain


def test_the_same_seed_gives_the_same_text_and_another_seed_another(client: openai.OpenAI) -> None:
    texts = [
        client.completions.create(
            model="default", prompt="Once", max_tokens=TOKENS, seed=seed, temperature=1.2, top_p=0.9
        )
        .choices[0]
        .text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("extra", [{"top_k": 1}, {"min_p": 1.0}])
def test_parameters_that_leave_one_token_are_greedy(
    client: openai.OpenAI, llama_path: Path, extra: dict[str, float]
) -> None:
    answer = client.completions.create(
        model="default", prompt="One way", max_tokens=TOKENS, temperature=2, extra_body=extra
    )
    tokens = greedy_tokens(llama_path, text_tokens(llama_path, "One way"), TOKENS)
    assert answer.choices[0].text == decode(llama_path, tokens)


def test_completions_echo_their_prompts_in_order(client: openai.OpenAI, llama_path: Path) -> None:
    texts = ["The first prompt", "Another \u4f60\u597d"]
    answer = client.completions.create(
        model="default", prompt=texts, max_tokens=8, temperature=0, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice, text in zip(answer.choices, texts, strict=True):
        tokens = greedy_tokens(llama_path, text_tokens(llama_path, text), 8)
        assert choice.text == text + decode(llama_path, tokens)


def test_token_ids_are_continued_as_they_stand(client: openai.OpenAI, llama_path: Path) -> None:
    ids = text_tokens(llama_path, "token ids")[1:]
    expected = decode(llama_path, greedy_tokens(llama_path, ids, 8))
    answer = client.completions.create(model="default", prompt=ids, max_tokens=8, temperature=0)
    assert answer.choices[0].text == expected
    several = client.completions.create(
        model="default", prompt=[ids, ids], max_tokens=8, temperature=0
    )
    assert [choice.text for choice in several.choices] == [expected, expected]
    assert several.usage is not None
    assert several.usage.prompt_tokens == 2 * len(ids)


def test_a_streamed_completion_carries_each_prompts_text_under_its_index(
    client: openai.OpenAI,
) -> None:
    asked = {"model": "default", "prompt": ["a b", "c d"], "max_tokens": 12, "temperature": 0}
    plain = client.completions.create(**asked, echo=True)  # type: ignore[call-overload]
    texts = ["", ""]
    for chunk in client.completions.create(**asked, echo=True, stream=True):  # type: ignore[call-overload]
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in plain.choices]


def test_models_are_listed_and_found_by_id(
    client: openai.OpenAI, model_paths: dict[str, Path]
) -> None:
    assert [model.id for model in client.models.list()] == [
        path.name for path in model_paths.values()
    ]
    assert client.models.retrieve("tiny-qwen").id == "tiny-qwen"
    assert client.models.retrieve("default").id == "tiny-llama"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such/model")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="../../etc/passwd", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_thirty_two_streams_at_once_are_each_mlx_lms_own_text(
    daemon: Daemon, llama_path: Path
) -> None:
    questions = [f"Tell me about {n} " + "things " * (n * 3) for n in range(32)]
    texts = [""] * len(questions)

    async def stream(client: openai.AsyncOpenAI, n: int) -> None:
        chunks = await client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": questions[n]}],
            temperature=0,
            max_tokens=TOKENS,
            stream=True,
        )
        async for chunk in chunks:
            texts[n] += chunk.choices[0].delta.content or ""

    async def stream_all() -> None:
        async with (
            openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none") as client,
            anyio.create_task_group() as streams,
        ):
            for n in range(len(questions)):
                streams.start_soon(stream, client, n)

    anyio.run(stream_all)
    for question, text in zip(questions, texts, strict=True):
        prompt = chat_tokens(llama_path, [{"role": "user", "content": question}])
        assert text == greedy_text(llama_path, prompt, TOKENS)
