"""The compile queue: compiles the grammars of prepared requests, one at a time.

The smallest grammar is first. A small one may be slow, too: each grammar first gets a short
time, and one that needs longer waits until no other grammar is left for its first try.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from protocol.events import Rejected
from protocol.messages import ChatPrompt, Submit, ToolUse
from worker.intake.prepared import PreparedRequest
from worker.structured_output.compiler import CompileResult
from worker.structured_output.constraint import GrammarError

Tool = dict[str, Any]

logger = logging.getLogger(__name__)

# Deeper than the sandbox's stack: a grammar that compiled there must compile here too.
STACK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, order=True)
class CompileJob:
    """A grammar to compile, in the order of the queue; `slow` if its first try timed out."""

    slow: bool
    size: int
    number: int
    prepared: PreparedRequest = field(compare=False)


class CompileQueue:
    """Compiles on one thread of its own; `deliver` gets each request that is still pending.

    The sequences of one `Submit` are one request here, with one grammar.
    """

    def __init__(
        self,
        is_pending: Callable[[Submit], bool],
        deliver: Callable[[Submit, PreparedRequest | Rejected], None],
    ) -> None:
        self._is_pending = is_pending
        self._deliver = deliver
        self._lock = threading.Lock()
        self._queue: queue.PriorityQueue[CompileJob] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def put(self, prepared: PreparedRequest) -> None:
        """Compile this request's grammar, then deliver the request."""
        size = len(msgspec.msgpack.encode(prepared.source_grammar))
        job = CompileJob(slow=False, size=size, number=next(self._numbers), prepared=prepared)
        self._queue.put(job)
        with self._lock:
            if self._thread is None:
                self._thread = start_deep_thread(self._run)

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            prepared = job.prepared
            if prepared.source_grammar is None or not self._is_pending(prepared.submit):
                continue
            compiler = prepared.config.grammars
            compiled = compiler.compile(prepared.source_grammar, quick=not job.slow)
            if isinstance(compiled, GrammarError) and compiled.timed_out and not job.slow:
                self._queue.put(replace(job, slow=True))
            elif isinstance(compiled, GrammarError) and (opened := open_schemas(prepared)):
                logger.warning("the arguments of tools are any objects: %s", compiled)
                self._queue.put(replace(job, slow=False, prepared=opened))
            else:
                self._deliver(prepared.submit, with_grammar(prepared, compiled))


def with_grammar(prepared: PreparedRequest, compiled: CompileResult) -> PreparedRequest | Rejected:
    """The request with its grammar, or its rejection.

    If the grammar of optional tool calls cannot be compiled, the request runs without one,
    unless a tool is strict.
    """
    if not isinstance(compiled, GrammarError):
        return replace(prepared, grammar=compiled)
    supported = prepared.config.grammars.vocabulary is not None
    if prepared.offered_calls is not None and not (supported and has_strict_tool(prepared.submit)):
        logger.warning("tool calls are not constrained to their schemas: %s", compiled)
        return replace(prepared, offered_calls=None)
    submit = prepared.submit
    param, is_of_tools = grammar_param(submit, supported=supported), requires_call(submit)
    if not is_of_tools and supported and has_strict_tool(submit):
        # The format and the tools are one grammar: which of them it is must be found out.
        alone = submit.grammar and prepared.config.grammars.compile(submit.grammar)
        param = param if isinstance(alone, GrammarError) else tools_param(submit)
    message = f"`{param}` cannot be enforced: {compiled}."
    return Rejected(id=submit.id, code="invalid_grammar", message=message, param=param)


def has_strict_tool(submit: Submit) -> bool:
    """Whether one of the tools that may be called is strict."""
    match submit:
        case Submit(prompt=ChatPrompt(tools=tools), calls=ToolUse(names)):
            functions = [tool["function"] for tool in tools]
            return any(each["name"] in names and each.get("strict") for each in functions)
        case _:
            return False


def open_schemas(prepared: PreparedRequest) -> PreparedRequest | None:
    """The request with any object as the arguments of tools that are not strict.

    None if this changes nothing, or if the answer must be a call.
    """
    match prepared.submit:
        case Submit(prompt=ChatPrompt() as prompt, calls=ToolUse([_, *_] as names, False)):
            tools, opened = open_tools(prompt, names)
        case _:
            return None
    prompt = msgspec.structs.replace(prompt, tools=tools)
    submit = msgspec.structs.replace(prepared.submit, prompt=prompt)
    parsers = prepared.config.parsers
    changed = replace(
        prepared,
        answer_grammar=prepared.answer_grammar and parsers.answer_grammar(submit, prepared.prompt),
        offered_calls=prepared.offered_calls and parsers.optional_call_grammar(submit),
        ignored=[*prepared.ignored, *opened],
    )
    return changed if changed.source_grammar != prepared.source_grammar else None


def open_tools(prompt: ChatPrompt, names: Sequence[str]) -> tuple[list[Tool], list[str]]:
    """The tools with any object as arguments, unless strict, and the paths of these schemas."""
    changed, paths = list(prompt.tools), []
    for index, tool in enumerate(prompt.tools):
        function = tool["function"]
        if function["name"] in names and not function.get("strict"):
            changed[index] = {**tool, "function": {**function, "parameters": {}}}
            paths.append(prompt.schema_path(index))
    return changed, paths


def grammar_param(submit: Submit, *, supported: bool) -> str:
    """The request parameter that requires the grammar, to name in its rejection.

    The grammar of required calls is made of `tools` because of `tool_choice`. If the model
    supports no grammar at all (`supported` is False), only `tool_choice` can be changed.
    """
    if not requires_call(submit):
        return submit.grammar_param
    tools = tools_param(submit)
    if supported:
        return tools
    return "function_call" if tools == "functions" else "tool_choice"


def requires_call(submit: Submit) -> bool:
    """Whether the answer must be a call."""
    return submit.calls is not None and submit.calls.required


def tools_param(submit: Submit) -> str:
    """The parameter that declares the tools."""
    match submit.prompt:
        case ChatPrompt(tools=[_, *_]) as prompt:
            return prompt.schema_path(0).partition("[")[0]
        case _:
            return "tools"


def start_deep_thread(run: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread with a stack of `STACK_BYTES`."""
    default_bytes = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="grammar-compiler", daemon=True)
        thread.start()
    finally:
        threading.stack_size(default_bytes)
    return thread
