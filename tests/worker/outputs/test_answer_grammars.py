"""The grammar of an answer beside a format: what it accepts of every syntax, and what not."""

from __future__ import annotations

import json

import pytest

from protocol.grammars import JsonSchema
from protocol.messages import ChatPrompt, Sampling, Submit, ToolUse
from tests.worker.structured_output.matching import accepts
from tests.worker.tool_calls.answers import SECTIONS, TOOLS
from worker.outputs.answer_grammars import AnswerGrammars
from worker.structured_output.constraint import CompiledGrammar, compile_text
from worker.structured_output.llguidance_source import to_llguidance
from worker.structured_output.vocabulary import Vocabulary
from worker.tool_calls.formats import BY_NAME
from worker.tool_calls.json_formats import HARMONY, JSON_TOOLS
from worker.tool_calls.markers import Markers
from worker.tool_calls.syntax import CallSyntax

FORMAT = JsonSchema('{"type": "object", "properties": {"x": {"type": "integer"}}}')
TEXT = '{"x": 7}'
THINK = Markers("<think>", "</think>")
NAMES = ["get_weather", "get"]
# The tests' vocabulary has a part of one of MiniMax M3's markers as a token. Muse's calls are in
# messages.
OTHERS = ("llama", "minimax_m3", "muse_spark")
FAMILIES = [each for each in SECTIONS if not each.startswith(OTHERS)]


def submit_of(*, required: bool = False, calls: bool = True) -> Submit:
    prompt = ChatPrompt([{"role": "user", "content": "hi"}], tools=TOOLS if calls else [])
    use = ToolUse(NAMES, required) if calls else None
    return Submit(id=1, model="m", prompt=prompt, sampling=Sampling(0), grammar=FORMAT, calls=use)


def special_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    added = json.loads(vocabulary.tokenizer_json)["added_tokens"]
    return {token["content"]: token["id"] for token in added}


def compile_for(
    vocabulary: Vocabulary,
    submit: Submit,
    *,
    syntax: CallSyntax = JSON_TOOLS,
    markers: Markers = THINK,
    tail: str = "assistant",
) -> CompiledGrammar:
    assert isinstance(submit.prompt, ChatPrompt)
    grammars = AnswerGrammars(markers, [syntax], special_tokens(vocabulary))
    assert grammars.applies(submit, submit.prompt, tail)
    return compile_text(to_llguidance(grammars.make(submit, submit.prompt, tail)), vocabulary)


def written(syntax: CallSyntax, section: str) -> str:
    """The section as the family's calls can be held to their schemas."""
    if syntax.call_template is None:
        return section
    return syntax.call_template.render("get_weather", '{"city": "Paris", "days": 2}')


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_a_section_of_calls_or_the_formats_text(
    vocabulary: Vocabulary, family: str
) -> None:
    syntax = BY_NAME[family.split()[0]]
    grammar = compile_for(vocabulary, submit_of(), syntax=syntax)
    call = written(syntax, SECTIONS[family])
    for before in ("", "<think>\nHm, {it} is so.\n</think>\n\n"):
        assert accepts(grammar, vocabulary, before + TEXT), before
        assert accepts(grammar, vocabulary, before + call), before
        assert not accepts(grammar, vocabulary, before + call.replace("get_weather", "swap"))
        assert not accepts(grammar, vocabulary, before + "No.")
        assert not accepts(grammar, vocabulary, before + TEXT + call)


@pytest.mark.parametrize("family", ["json_tools", "deepseek_v31", "kimi_k2"])
def test_an_answer_with_required_calls_is_no_text_of_the_format(
    vocabulary: Vocabulary, family: str
) -> None:
    syntax = BY_NAME[family]
    grammar = compile_for(vocabulary, submit_of(required=True), syntax=syntax)
    call = written(syntax, SECTIONS[family])
    assert accepts(grammar, vocabulary, call)
    assert accepts(grammar, vocabulary, f"<think>Hm.</think>{call}")
    assert not accepts(grammar, vocabulary, TEXT)


@pytest.mark.parametrize("markers", [THINK, Markers("[THINK]", "[/THINK]")])
def test_reasoning_is_free_and_the_prompt_may_have_begun_it(
    vocabulary: Vocabulary, markers: Markers
) -> None:
    submit = submit_of(calls=False)
    begun = compile_for(vocabulary, submit, markers=markers, tail=f"x {markers.think_start}")
    left_out = compile_for(vocabulary, submit, markers=markers)
    for thought in ("Hm.", "", '{"x": "no"}\n' * 9, "é 日本 < / >"):
        ended = f"{thought}{markers.think_end}"
        for space in ("", "\n", "\n\n"):
            assert accepts(begun, vocabulary, ended + space + TEXT)
            assert accepts(left_out, vocabulary, markers.think_start + ended + space + TEXT)
        assert not accepts(begun, vocabulary, ended)
        assert not accepts(begun, vocabulary, ended + "No.")
        assert not accepts(begun, vocabulary, thought)
    assert accepts(left_out, vocabulary, TEXT)
    assert not accepts(begun, vocabulary, TEXT)


def test_a_think_block_that_the_prompt_ended_is_not_begun_again() -> None:
    submit = submit_of(calls=False)
    assert isinstance(submit.prompt, ChatPrompt)
    grammars = AnswerGrammars(THINK, [JSON_TOOLS], {})
    assert not grammars.applies(submit, submit.prompt, "<think>\n\n</think>")


def test_a_message_of_harmony_is_the_formats_text_or_a_call(vocabulary: Vocabulary) -> None:
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    final = f"<|channel|>final<|message|>{TEXT}"
    call = (
        "<|channel|>commentary to=functions.get <|constrain|>json<|message|>"
        '{"city": "Paris", "days": 2}'
    )
    grammar = compile_for(vocabulary, submit_of(), syntax=HARMONY, markers=Markers())
    required = compile_for(vocabulary, submit_of(required=True), syntax=HARMONY, markers=Markers())
    for before in ("", analysis):
        assert accepts(grammar, vocabulary, before + final)
        assert accepts(grammar, vocabulary, before + call)
        assert accepts(required, vocabulary, before + call)
        assert not accepts(required, vocabulary, before + final)
        assert not accepts(grammar, vocabulary, before + TEXT)


def test_a_message_of_muse_is_the_formats_text_or_a_call(vocabulary: Vocabulary) -> None:
    syntax = BY_NAME["muse_spark"]
    thought = " to=self<|message|>Hm, {it} is so.<|eom|><|start|>assistant"
    final, call = f" to=user<|message|>{TEXT}", f" to=get<|message|>{SECTIONS['muse_spark']}"
    grammar = compile_for(vocabulary, submit_of(), syntax=syntax, markers=Markers())
    required = compile_for(vocabulary, submit_of(required=True), syntax=syntax, markers=Markers())
    for before in ("", thought):
        assert accepts(grammar, vocabulary, before + final)
        assert accepts(grammar, vocabulary, before + call)
        assert accepts(required, vocabulary, before + call)
        assert not accepts(required, vocabulary, before + final)
        assert not accepts(grammar, vocabulary, before + TEXT)
        assert not accepts(grammar, vocabulary, before + final.replace("user", "self"))
    two = f"{call}<|eom|><|start|>assistant{call}"
    assert accepts(required, vocabulary, two)
    without_calls = compile_for(
        vocabulary, submit_of(calls=False), syntax=syntax, markers=Markers()
    )
    assert accepts(without_calls, vocabulary, thought + final)
    assert not accepts(without_calls, vocabulary, thought + call)
