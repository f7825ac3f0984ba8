"""The preparation process: the same result as in the worker, and an end at every limit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.events import Rejected, Tokenized
from protocol.messages import (
    ChatPrompt,
    ModelSource,
    Prompt,
    Sampling,
    Submit,
    TextPrompt,
    TokenPrompt,
    ToolUse,
)
from protocol.tokenization import Tokenize
from tests.worker.driver import make_config_loader
from worker.intake import preparation_process as limits
from worker.intake.encoded_submit import encode
from worker.intake.preparation_child import ChildRequest
from worker.intake.preparation_process import PreparationProcess
from worker.intake.prepared import PreparedPrompt, prepare_prompt, tokenize_prompt
from worker.memory.preparation import PreparationMemory
from worker.models.model_config import ModelConfig
from worker.structured_output.answer_grammar import AnswerGrammar

OWNER = "prompts"
HELLO = TextPrompt("hello")
# Far beyond the context that `boundless` claims to have, so that only a limit ends it.
LONG = TextPrompt("ab " * 4_000_000)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
prompts = st.one_of(
    st.builds(TextPrompt, texts.filter(bool)),
    st.builds(TokenPrompt, st.lists(st.integers(0, 1000), min_size=1)),
    st.builds(
        lambda content, tools: ChatPrompt([{"role": "user", "content": content}], tools=tools),
        texts,
        st.sampled_from([[], [TOOL]]),
    ),
)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return make_config_loader().load(ModelSource("m", None), download=False)


@pytest.fixture
def memory() -> PreparationMemory:
    return PreparationMemory()


@pytest.fixture
def process(memory: PreparationMemory) -> Iterator[PreparationProcess]:
    process = PreparationProcess(OWNER, memory, memory_wait_s=0)
    yield process
    process.stop()
    assert memory.reserved_bytes == 0


@pytest.fixture(scope="module")
def warm_memory() -> PreparationMemory:
    return PreparationMemory()


@pytest.fixture(scope="module")
def warm(warm_memory: PreparationMemory) -> Iterator[PreparationProcess]:
    """One for all tests that leave it as it is, or let it start again."""
    process = PreparationProcess(OWNER, warm_memory, memory_wait_s=0)
    yield process
    process.stop()
    assert warm_memory.reserved_bytes == 0


def submit_of(prompt: Prompt, **changed: Any) -> Submit:
    return Submit(**{"id": 1, "model": "m", "prompt": prompt, "sampling": Sampling(0), **changed})


def request_of(config: ModelConfig, submit: Submit, context_length: int = 0) -> ChildRequest:
    model = config.prompt_model
    if context_length:
        model = msgspec.structs.replace(model, context_length=context_length)
    return ChildRequest(model, encode(submit), wants_breakpoints=True, enforces_calls=True)


def boundless(config: ModelConfig, prompt: Prompt = LONG) -> ChildRequest:
    """A request for a model whose context has no end."""
    return request_of(config, submit_of(prompt), context_length=10**9)


def always() -> bool:
    return True


@settings(max_examples=60)
@given(prompt=prompts, max_tokens=st.sampled_from([None, 1, 10**6]), echo=st.booleans())
def test_a_prompt_prepared_in_the_process_equals_one_prepared_here(
    warm: PreparationProcess,
    config: ModelConfig,
    prompt: Prompt,
    max_tokens: int | None,
    echo: bool,
) -> None:
    calls = ToolUse(["weather"]) if isinstance(prompt, ChatPrompt) and prompt.tools else None
    submit = submit_of(prompt, max_tokens=max_tokens, echo=echo, calls=calls)
    here = prepare_prompt(
        config.prompts, config.parsers, submit, wants_breakpoints=True, enforces_calls=True
    )
    there = warm.prepare(request_of(config, submit), always)
    if isinstance(here, Rejected):
        # The process may know the length of a prompt that does not fit only from below.
        assert isinstance(there, Rejected)
        assert (there.code, there.param) == (here.code, here.param)
    else:
        assert there == here


def test_the_grammar_of_required_calls_is_made_there(
    warm: PreparationProcess, config: ModelConfig
) -> None:
    prompt = ChatPrompt([{"role": "user", "content": "hi"}], tools=[TOOL])
    submit = submit_of(prompt, calls=ToolUse(["weather"], required=True))
    prepared = warm.prepare(request_of(config, submit), always)
    assert isinstance(prepared, PreparedPrompt)
    assert isinstance(prepared.answer_grammar, AnswerGrammar)


@settings(max_examples=40)
@given(prompt=prompts | st.none(), strings=st.sampled_from(["none", "vocabulary", "pieces"]))
def test_a_tokenization_in_the_process_equals_one_here(
    warm: PreparationProcess, config: ModelConfig, prompt: Prompt | None, strings: Any
) -> None:
    encoded = msgspec.Raw(msgspec.msgpack.encode(prompt))
    tokenize = Tokenize(7, "m", encoded, param="content", strings=strings)
    request = ChildRequest(
        config.prompt_model, tokenize, wants_breakpoints=True, enforces_calls=True
    )
    there = warm.prepare(request, always)
    assert there == tokenize_prompt(config.prompts, tokenize)
    assert isinstance(there, Tokenized)


def test_a_tokenization_that_takes_too_long_is_refused(
    warm: PreparationProcess, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.prepare(request_of(config, submit_of(HELLO)), always)
    monkeypatch.setattr(limits, "TIME_LIMIT_S", 0.2)
    tokenize = Tokenize(7, "m", msgspec.Raw(msgspec.msgpack.encode(LONG)), param="content")
    request = ChildRequest(
        config.prompt_model, tokenize, wants_breakpoints=False, enforces_calls=False
    )
    refused = warm.prepare(request, always)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("prompt_too_large", "content")


def test_an_idle_process_and_its_memory_are_kept_for_the_next_prompt(
    warm: PreparationProcess, warm_memory: PreparationMemory, config: ModelConfig
) -> None:
    assert isinstance(warm.prepare(request_of(config, submit_of(HELLO)), always), PreparedPrompt)
    pid = warm.pid
    assert warm_memory.reserved_bytes > 0
    assert isinstance(warm.prepare(request_of(config, submit_of(HELLO)), always), PreparedPrompt)
    assert warm.pid == pid


def test_a_process_that_was_killed_is_replaced(
    warm: PreparationProcess, config: ModelConfig
) -> None:
    warm.prepare(request_of(config, submit_of(HELLO)), always)
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGKILL)
    assert isinstance(warm.prepare(request_of(config, submit_of(HELLO)), always), PreparedPrompt)


def test_a_prompt_that_is_cancelled_ends_the_process(
    warm: PreparationProcess, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.prepare(request_of(config, submit_of(HELLO)), always)
    monkeypatch.setattr(limits, "CANCEL_GRACE_S", 0.0)
    looks = iter([True, True])
    assert warm.prepare(boundless(config), lambda: next(looks, False)) is None
    assert warm.pid is None


def test_a_prompt_that_takes_too_long_is_refused(
    warm: PreparationProcess, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.prepare(request_of(config, submit_of(HELLO)), always)
    monkeypatch.setattr(limits, "TIME_LIMIT_S", 0.2)
    refused = warm.prepare(boundless(config), always)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("prompt_too_large", "prompt")
    assert warm.pid is None


def test_a_prompt_that_needs_too_much_memory_is_refused(
    warm: PreparationProcess, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.prepare(request_of(config, submit_of(HELLO)), always)
    monkeypatch.setattr(limits, "MAX_BYTES", 300 << 20)
    refused = warm.prepare(boundless(config), always)
    assert isinstance(refused, Rejected)
    assert refused.code == "prompt_too_large"
    assert "300.0 MiB" in refused.message
    assert warm.pid is None


def test_a_prompt_that_exceeds_the_budget_is_refused_for_now(
    process: PreparationProcess, memory: PreparationMemory, config: ModelConfig
) -> None:
    memory.publish(limits.BASE_BYTES - 1)
    refused = process.prepare(request_of(config, submit_of(HELLO)), always)
    assert isinstance(refused, Rejected)
    assert refused.code == "insufficient_memory"
    assert process.pid is None
    memory.publish(limits.BASE_BYTES + 300 * (1 << 20))
    assert isinstance(process.prepare(request_of(config, submit_of(HELLO)), always), PreparedPrompt)
    refused = process.prepare(boundless(config), always)
    assert isinstance(refused, Rejected)
    assert refused.code == "insufficient_memory"
