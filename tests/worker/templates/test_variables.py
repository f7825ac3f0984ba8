"""A request may set the variables that the model's template reads, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from protocol.messages import ChatPrompt
from worker.prompt_errors import PromptError
from worker.templates.variables import TemplateVariables, variables_of

THINKING = (
    "{% for message in messages %}{{ bos_token }}{{ message.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}no thinking{% endif %}"
    "{{ tone }}{{ tools }}{{ raise_exception }}{% set local = 1 %}{{ local }}{{ range(2) }}"
)


def variables(path: Path, template: str | None) -> TemplateVariables:
    tokenizer = load_tokenizer(path)
    tokenizer.chat_template = template
    tokenizer.has_chat_template = template is not None
    return TemplateVariables(tokenizer)


def test_a_variable_that_the_template_reads_may_be_set_unless_transformers_sets_it(
    llama_path: Path,
) -> None:
    assert variables(llama_path, THINKING).names == ["enable_thinking", "tone"]


def chat(
    effort: str | None = None,
    options: dict[str, Any] | None = None,
    *,
    ignores_effort: bool = False,
) -> ChatPrompt:
    return ChatPrompt([], options or {}, reasoning_effort=effort, ignores_effort=ignores_effort)


@pytest.mark.parametrize(
    "name",
    [
        *("chat_template", "tokenize", "conversation", "tools", "return_tensors", "padding"),
        *("truncation", "max_length", "tokenizer_kwargs", "add_generation_prompt", "return_dict"),
        *("messages", "bos_token", "unknown", "sanitize_control_tokens"),
    ],
)
def test_any_other_name_is_refused_and_the_error_lists_the_variables(
    llama_path: Path, name: str
) -> None:
    with pytest.raises(PromptError) as caught:
        variables(llama_path, THINKING + "{{ add_generation_prompt }}").options(
            chat(None, {"tone": "warm", name: 1})
        )
    assert caught.value.param == "chat_template_kwargs"
    assert f"`{name}`" in caught.value.message
    assert "`enable_thinking`, `tone`" in caught.value.message


@pytest.mark.parametrize(
    ("template", "effort", "options"),
    [
        ("{{ reasoning_effort }}", "low", {"reasoning_effort": "low"}),
        ("{{ enable_thinking }}", "none", {"enable_thinking": False}),
        ("{{ enable_thinking }}", "high", {"enable_thinking": True}),
        ("{{ thinking }}", "none", {"thinking": False}),
        ("{{ reasoning_effort }}{{ thinking }}", "none", {"thinking": False}),
        (
            "{{ reasoning_effort }}{{ thinking }}",
            "low",
            {"reasoning_effort": "low", "thinking": True},
        ),
        ("{{ thinking_budget }}", "none", {"thinking_budget": 0}),
    ],
)
def test_a_reasoning_effort_is_passed_in_the_variable_that_the_template_reads(
    llama_path: Path, template: str, effort: str, options: dict[str, Any]
) -> None:
    read = variables(llama_path, template)
    assert (read.options(chat(effort)), read.ignored(chat(effort))) == (options, [])


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_a_model_that_does_not_think_ignores_effort_and_thinking_turned_off(
    llama_path: Path, template: str | None
) -> None:
    read = variables(llama_path, template)
    prompt = chat("low", {"enable_thinking": False})
    assert not read.thinks
    assert read.options(prompt) == {}
    assert read.ignored(prompt) == ["chat_template_kwargs.enable_thinking", "reasoning_effort"]
    for value in (True, "no", 0):
        with pytest.raises(PromptError) as caught:
            read.options(chat(None, {"enable_thinking": value}))
        assert caught.value.param == "chat_template_kwargs"


LOW_ONLY = (
    "{% if reasoning_effort is defined and reasoning_effort != 'low' %}"
    "{{ raise_exception('only low') }}{% endif %}{{ messages[0].content }}"
)


def test_an_effort_that_the_template_refuses_is_refused_unless_the_operator_has_it_ignored(
    llama_path: Path,
) -> None:
    read = variables(llama_path, LOW_ONLY)
    assert read.options(chat("low")) == {"reasoning_effort": "low"}
    with pytest.raises(PromptError) as caught:
        read.options(chat("high"))
    assert caught.value.param == "reasoning_effort"
    softened = chat("high", ignores_effort=True)
    assert read.options(softened) == {}
    assert read.ignored(softened) == ["reasoning_effort"]
    assert read.ignored(chat("low", ignores_effort=True)) == []


def test_a_template_with_a_budget_of_thinking_alone_has_no_other_effort(llama_path: Path) -> None:
    with pytest.raises(PromptError, match="does not support `reasoning_effort` high"):
        variables(llama_path, "{{ thinking_budget }}").options(chat("high"))


def test_a_model_that_thinks_without_a_variable_refuses_an_effort(llama_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_path)
    tokenizer.add_tokens(["<think>", "</think>"])
    read = TemplateVariables(TokenizerWrapper(tokenizer))
    assert read.thinks
    for prompt in (chat("none"), chat(None, {"enable_thinking": False})):
        with pytest.raises(PromptError):
            read.options(prompt)
    assert read.ignored(chat("none", ignores_effort=True)) == ["reasoning_effort"]


def test_generation_blocks_and_invalid_templates_are_parsed() -> None:
    assert variables_of("{% generation %}{{ a }}{% endgeneration %}{% break %}") == {"a"}
    assert variables_of("{% if %}") == set()


def test_a_variable_that_the_template_sets_is_its_own_unless_it_tests_whether_it_is_defined() -> (
    None
):
    assert variables_of("{% if a %}{% set b = 1 %}{% endif %}{{ b }}") == {"a"}
    assert variables_of("{% if not b is defined %}{% set b = 1 %}{% endif %}{{ b }}") == {"b"}
    assert variables_of("{% set b = b | default(1) %}{{ b }}") == {"b"}
