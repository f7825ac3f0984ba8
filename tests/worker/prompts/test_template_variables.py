"""A request may set the variables that the model's template reads, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from worker.prompts.prompt_errors import PromptError
from worker.prompts.template_variables import TemplateVariables, variables_of

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


@pytest.mark.parametrize(
    "name",
    [
        *("chat_template", "tokenize", "conversation", "tools", "return_tensors", "padding"),
        *("truncation", "max_length", "tokenizer_kwargs", "add_generation_prompt", "return_dict"),
        *("messages", "bos_token", "documents", "unknown", "sanitize_control_tokens"),
    ],
)
def test_any_other_name_is_refused_and_the_error_lists_the_variables(
    llama_path: Path, name: str
) -> None:
    with pytest.raises(PromptError) as caught:
        variables(llama_path, THINKING + "{{ add_generation_prompt }}{{ documents }}").options(
            {"tone": "warm", name: 1}, None
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
    ],
)
def test_a_reasoning_effort_is_passed_in_the_variable_that_the_template_reads(
    llama_path: Path, template: str, effort: str, options: dict[str, Any]
) -> None:
    assert variables(llama_path, template).options({}, effort) == options


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_a_reasoning_effort_is_refused_if_the_template_does_not_read_it(
    llama_path: Path, template: str | None
) -> None:
    allowed = variables(llama_path, template)
    assert allowed.options({}, None) == {}
    with pytest.raises(PromptError) as caught:
        allowed.options({}, "low")
    assert caught.value.param == "reasoning_effort"


def test_generation_blocks_and_invalid_templates_are_parsed() -> None:
    assert variables_of("{% generation %}{{ a }}{% endgeneration %}{% break %}") == {"a"}
    assert variables_of("{% if %}") == set()


def test_a_variable_that_the_template_sets_is_its_own_unless_it_tests_whether_it_is_defined() -> (
    None
):
    assert variables_of("{% if a %}{% set b = 1 %}{% endif %}{{ b }}") == {"a"}
    assert variables_of("{% if not b is defined %}{% set b = 1 %}{% endif %}{{ b }}") == {"b"}
    assert variables_of("{% set b = b | default(1) %}{{ b }}") == {"b"}
