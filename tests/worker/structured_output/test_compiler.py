"""Which grammars compile, which are refused and why, and how long results stay cached."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from tests.worker.structured_output.matching import accepts, allowed_tokens, compile_grammar
from worker.call_grammars.optional_calls import make_optional_call_grammar
from worker.call_grammars.sections import make_call_rules
from worker.structured_output import compiler as compiler_module
from worker.structured_output.compiler import QUICK_CPU_LIMIT_S, GrammarCompiler
from worker.structured_output.constraint import CompiledGrammar, GrammarError
from worker.structured_output.vocabulary import Vocabulary
from worker.tool_calls.json_formats import BARE_JSON


def schema(value: Any) -> JsonSchema:
    return JsonSchema(value if isinstance(value, str) else json.dumps(value))


def optional_properties(count: int) -> dict[str, Any]:
    properties = {f"p{index}": {"type": "string"} for index in range(count)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def chain(links: int) -> dict[str, Any]:
    """A chain of references of this length."""
    links_by_name: dict[str, Any] = {
        f"d{index}": {"$ref": f"#/$defs/d{index + 1}"} for index in range(links)
    }
    return {"$ref": "#/$defs/d0", "$defs": links_by_name | {f"d{links}": {"type": "string"}}}


def rules(count: int) -> str:
    body = "\n".join(f'r{index}: "a{index}" r{index + 1}?' for index in range(count))
    return f'start: r0\n{body}\nr{count}: "x"'


@pytest.mark.parametrize(
    ("grammar", "matching", "not_matching"),
    [
        (JsonObject(), ['{"a":[1,{}]}', '{"a": 1, "b": null}', "{}"], ["[]", "", "{", '{"a":\n1}']),
        (schema({"type": "integer"}), ["1", "-20"], ["1.5", '"1"']),
        (schema({}), ["null", "[]", '"x"'], ["nothing"]),
        (schema({"enum": ["é", 5, None]}), ['"é"', "5", "null"], ["é", "6"]),
        (schema({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
            {"type": "null"},
            {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1},
        ]}}}), ["null", "[[null]]"], ["[]", "[[null]"]),
        (schema({"type": "string", "pattern": "^(a+)+$"}), ['"aaaa"'], ['"aab"', '""']),
        (schema({"type": "string", "minLength": 10**9}), [], ['"short"']),
        (schema({"type": "array", "maxItems": 10**9}), ["[1,2]"], ["{}"]),
        (Regex("[0-9]{2}-(a|b)"), ["12-a"], ["1-a", "12-ab"]),
        (Regex("^x+$"), ["x", "xx"], ["", "y"]),
        (TextChoice(["yes", "no", 'a"b\\\n/é😀', "yes, please"]),
         ["yes", "no", 'a"b\\\n/é😀', "yes, please"], ["y", "maybe", "yes,"]),
        (Lark('start: "a" | "b" start'), ["a", "bba"], ["ab", "b"]),
        (Lark('root ::= "x" [0-9]+'), ["x1"], ["x"]),
    ],
)  # fmt: skip
def test_a_grammar_accepts_exactly_the_texts_that_match_it(
    compiler: GrammarCompiler,
    vocabulary: Vocabulary,
    grammar: Grammar,
    matching: list[str],
    not_matching: list[str],
) -> None:
    compiled = compile_grammar(compiler, grammar)
    assert [text for text in matching if not accepts(compiled, vocabulary, text)] == []
    assert [text for text in not_matching if accepts(compiled, vocabulary, text)] == []


def many_tools(count: int) -> list[dict[str, Any]]:
    """Tools with long names with dots, and a schema of some properties."""
    parameters = {
        "type": "object",
        "properties": {
            "owner": {"type": "string"},
            "state": {"enum": ["open", "closed"]},
            "labels": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["owner"],
    }
    names = (f"server{n % 7}.tool-{n}_{'x' * 100}" for n in range(count))
    return [{"function": {"name": name, "parameters": parameters}} for name in names]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("count", [1, 128, 512])
def test_calls_of_as_many_tools_as_a_request_may_have_are_enforced(
    compiler: GrammarCompiler, vocabulary: Vocabulary, count: int, required: bool
) -> None:
    tools = many_tools(count)
    names = [tool["function"]["name"] for tool in tools]
    if required:
        template = BARE_JSON.call_template
        assert template is not None
        rules = make_call_rules(tools, names, BARE_JSON, {}, parallel=False)
        text = "\n".join(["start: calls", *rules])
        before = f"{template.before}{{}}{template.between}"
        after = template.after
    else:
        text = make_optional_call_grammar(tools, names, {}, headers=[])
        before, after = "{}\n", ""
    grammar = compile_grammar(compiler, Lark(text))
    for owner, fits in (('"a"', True), ("1", False)):
        call = before.replace("{}", names[-1]) + f'{{"owner": {owner}}}' + after
        assert accepts(grammar, vocabulary, call) is fits
    call = before.replace("{}", names[-1].replace(".", "_")) + '{"owner": "a"}' + after
    assert not accepts(grammar, vocabulary, call)


@pytest.mark.parametrize("first", ["", '%llguidance {"no_forcing": false}\n'])
@pytest.mark.parametrize("rule", ['" "+ "b"', '(" "+ "b"?)+ "z"', 'sp "b"\nsp: " " | sp " "'])
@pytest.mark.parametrize("prefix", ["", "a" * 100])
def test_ignored_text_that_can_only_be_repeated_takes_no_endless_step(
    compiler: GrammarCompiler, vocabulary: Vocabulary, prefix: str, rule: str, first: str
) -> None:
    text = f"{first}start: /a{{{len(prefix)}}}/ {rule}\n%ignore /[ ]+/"
    constraint = compile_grammar(compiler, Lark(text)).create_constraint()
    for token in vocabulary.tokenizer.tokenize_str(f"{prefix}{' ' * 40}"):
        assert token in allowed_tokens(constraint)
        constraint.accept(token)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        pytest.param(schema(optional_properties(10_000)), "longer than", id="time"),
        pytest.param(schema(optional_properties(1_000)), "items", id="optional properties"),
        pytest.param(schema('{"items":' * 1_000 + "{}" + "}" * 1_000), "recursion", id="depth"),
        pytest.param(schema(chain(20_000)), "too deeply", id="stack overflow by references"),
        pytest.param(Lark(rules(10_000)), "too deeply", id="stack overflow by rules"),
        pytest.param(Lark("start: " + "(" * 100_000), "nested", id="brackets"),
        pytest.param(schema({"$ref": "#"}), "", id="refers to itself"),
        pytest.param(schema({"$ref": "http://127.0.0.1:1/x"}), "not fetch", id="http"),
        pytest.param(schema({"$ref": "file:///etc/passwd"}), "not fetch", id="file"),
        pytest.param(schema({"not": {}}), "Unimplemented", id="unknown keyword"),
        pytest.param(
            schema({"not": {}, "x-guidance": {"lenient": True}}), "Unimplemented", id="lenient"
        ),
        pytest.param(
            schema({"oneOf": [{"type": "string"}, {"minLength": 2}]}), "oneOf", id="overlap"
        ),
        pytest.param(schema({"type": "string", "format": "colour"}), "format", id="format"),
        pytest.param(schema({"type": []}), "", id="no type"),
        pytest.param(schema({"type": "string", "pattern": "(?<=x)*"}), "look-behind", id="look"),
        pytest.param(Regex("(?<=x)*"), "look-behind", id="regex"),
        pytest.param(Regex("((("), "regex", id="no regex"),
        pytest.param(Regex("(((((a{1,9}){1,9}){1,9}){1,9}){1,9}){1,9}"), "", id="repetitions"),
        pytest.param(Regex(""), "no text", id="empty"),
        pytest.param(Lark("start: (("), "Expected", id="no grammar"),
        pytest.param(Lark("root ::= ("), "", id="no GBNF"),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_refused_with_the_reason(
    compiler: GrammarCompiler, grammar: Grammar, message: str
) -> None:
    result = compiler.compile(grammar)
    assert isinstance(result, GrammarError)
    assert message in str(result)
    assert 0 < len(str(result)) <= 200
    assert compiler.cached(grammar) is (None if result.timed_out else result)


def test_a_grammar_that_timed_out_twice_is_refused_at_once_for_a_minute(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "CPU_LIMIT_S", QUICK_CPU_LIMIT_S)
    now = 0.0
    compiler = GrammarCompiler(vocabulary, clock=lambda: now)
    slow = schema(optional_properties(10_000))
    for _ in range(2):
        assert compiler.cached(slow) is None
        assert isinstance(compiler.compile(slow), GrammarError)
    refused = compiler.cached(slow)
    assert isinstance(refused, GrammarError)
    assert "longer than" in str(refused)
    assert "tried again after 60 s" in str(refused)
    now = 61.0
    assert compiler.cached(slow) is None
    compiler.close()


def test_a_short_first_try_that_times_out_is_not_remembered(vocabulary: Vocabulary) -> None:
    compiler = GrammarCompiler(vocabulary)
    slow = schema(optional_properties(10_000))
    for _ in range(3):
        result = compiler.compile(slow, quick=True)
        assert isinstance(result, GrammarError)
        assert result.timed_out
    assert compiler.cached(slow) is None
    assert isinstance(compiler.compile(schema({"const": 1}), quick=True), CompiledGrammar)
    compiler.close()


def test_other_grammars_compile_after_one_that_killed_its_trial(compiler: GrammarCompiler) -> None:
    assert isinstance(compiler.compile(schema(chain(20_001))), GrammarError)
    assert isinstance(compiler.compile(schema({"const": "after"})), CompiledGrammar)


def test_a_sandbox_that_was_killed_is_restarted(vocabulary: Vocabulary) -> None:
    compiler = GrammarCompiler(vocabulary)
    compile_grammar(compiler, TextChoice(["before"]))
    assert compiler.sandbox_pid is not None
    os.kill(compiler.sandbox_pid, signal.SIGKILL)
    compile_grammar(compiler, TextChoice(["after"]))
    compiler.close()
    compile_grammar(compiler, TextChoice(["after it was closed"]))
    compiler.close()


def test_the_cache_keeps_at_most_a_number_of_grammars(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "MAX_CACHED_GRAMMARS", 2)
    compiler = GrammarCompiler(vocabulary)
    first, second, third = (TextChoice([text]) for text in ("one", "two", "three"))
    cached = compile_grammar(compiler, first)
    compile_grammar(compiler, second)
    assert compile_grammar(compiler, first) is cached
    compile_grammar(compiler, third)
    assert [compiler.cached(each) is not None for each in (first, second, third)] == [
        True, False, True,
    ]  # fmt: skip
    compiler.close()


def test_the_cache_keeps_at_most_a_number_of_bytes(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "MAX_CACHED_BYTES", 1)
    compiler = GrammarCompiler(vocabulary)
    compile_grammar(compiler, TextChoice(["one"]))
    compile_grammar(compiler, TextChoice(["two"]))
    assert compiler.cached(TextChoice(["one"])) is None
    assert compiler.cached(TextChoice(["two"])) is not None
    compiler.close()


def test_every_grammar_is_refused_without_a_vocabulary() -> None:
    result = GrammarCompiler(None).compile(JsonObject())
    assert isinstance(result, GrammarError)
    assert "tokenizer" in str(result)
