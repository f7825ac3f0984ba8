"""The grammar sandbox, a child process: `python -m worker.structured_output.sandbox`.

A client's grammar may take minutes or gigabytes to compile, or overflow the stack; all three
were seen with llguidance (1.9.1). So each grammar is compiled here first, in a forked process
with resource limits that the system enforces. The vocabulary is loaded before the fork. On
macOS the limit of memory does not bind, so the memory is also looked at from outside. A
grammar that passes the trial takes the worker no more time and memory than it took here.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from protocol.grammars import JsonObject
from worker.isolation.resource_limits import peak_bytes, set_soft_limit
from worker.memory.footprint import read_footprint, read_footprint_of
from worker.structured_output.answer_grammar import AnswerGrammar, AnyGrammar
from worker.structured_output.constraint import CompiledGrammar, GrammarError, compile_text
from worker.structured_output.llguidance_source import to_llguidance
from worker.structured_output.vocabulary import Vocabulary

CPU_LIMIT_S = 0.8
# For a trial that computes nothing. On a busy machine the processor time takes many times as long
# to come: at 2 s such a machine refused grammars that it compiles in 0.2 s of processor time.
TIME_LIMIT_S = 20.0
STACK_LIMIT_BYTES = 4 * 1024 * 1024
MEMORY_LIMIT_BYTES = 1024 * 1024 * 1024
MEMORY_POLL_MS = 20
NICENESS = 5
TRIAL_TOKENS = 48
LIMIT_SIGNALS = {signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU}


class Trial(msgspec.Struct, frozen=True, array_like=True):
    """A grammar to try, encoded, and the limit of processor time."""

    grammar: msgspec.Raw
    cpu_limit_s: float


class Passed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The grammar in llguidance's format, and the approximate memory of its compiled form."""

    text: str
    size_bytes: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The grammar is invalid or exceeds a limit."""

    reason: str
    timed_out: bool = False


TrialResult = Passed | Refused
RESULT_DECODER: msgspec.msgpack.Decoder[TrialResult] = msgspec.msgpack.Decoder(TrialResult)
TRIAL_DECODER = msgspec.msgpack.Decoder(Trial)
GRAMMAR_DECODER: msgspec.msgpack.Decoder[AnyGrammar] = msgspec.msgpack.Decoder(AnyGrammar)


def main(connection: Connection) -> None:
    """Send a `TrialResult` for each grammar received, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(EOFError, OSError):
        vocabulary = msgspec.msgpack.decode(connection.recv_bytes(), type=Vocabulary)
        # Initialise everything that is lazy once, outside any trial.
        try_grammar(msgspec.Raw(msgspec.msgpack.encode(JsonObject())), vocabulary)
        while True:
            trial = TRIAL_DECODER.decode(connection.recv_bytes())
            connection.send_bytes(run_trial(trial, vocabulary))


def run_trial(trial: Trial, vocabulary: Vocabulary) -> bytes:
    """Fork a process that tries one grammar; the encoded `TrialResult`."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # The child must never return into the code of its parent.
        try:
            set_limits(trial.cpu_limit_s)
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(msgspec.msgpack.encode(try_grammar(trial.grammar, vocabulary)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        # What is shared with this process may count as the child's.
        limit_memory(child, pipe.fileno(), read_footprint() + MEMORY_LIMIT_BYTES)
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    return result or msgspec.msgpack.encode(refusal_of(status, trial.cpu_limit_s))


def limit_memory(child: int, pipe: int, limit_bytes: int) -> None:
    """Wait until the pipe can be read, and kill the child if it uses more memory than this.

    On macOS, RLIMIT_DATA does not limit the memory that malloc maps.
    """
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while not poller.poll(MEMORY_POLL_MS):
        if read_footprint_of(child) > limit_bytes:
            os.kill(child, signal.SIGKILL)
            return


def set_limits(cpu_limit_s: float) -> None:
    """Limit the time, stack and memory of this process."""
    signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
    signal.setitimer(signal.ITIMER_REAL, cpu_limit_s * TIME_LIMIT_S / CPU_LIMIT_S)
    set_soft_limit(resource.RLIMIT_STACK, STACK_LIMIT_BYTES)
    set_soft_limit(resource.RLIMIT_DATA, MEMORY_LIMIT_BYTES)
    set_soft_limit(resource.RLIMIT_CORE, 0)


def try_grammar(encoded: msgspec.Raw, vocabulary: Vocabulary) -> TrialResult:
    """Compile the grammar and generate some tokens with it."""
    # The first compilation after a fork touches memory that does not belong to the grammar.
    compile_text(to_llguidance(JsonObject()), vocabulary).create_constraint().mask()
    peak_before = peak_bytes()
    try:
        grammar = GRAMMAR_DECODER.decode(encoded)
        text = ""
        for part in grammar.trials if isinstance(grammar, AnswerGrammar) else [grammar]:
            text = to_llguidance(part)
            generate_sample(compile_text(text, vocabulary), vocabulary.stop_token_ids)
        if isinstance(grammar, AnswerGrammar) and grammar.reasoning:
            text = to_llguidance(grammar)
            compile_text(text, vocabulary)
    except GrammarError as error:
        return Refused(str(error))
    return Passed(text, len(text) + peak_bytes() - peak_before)


def generate_sample(grammar: CompiledGrammar, stop_token_ids: list[int]) -> None:
    """Draw the first tokens of a random answer.

    Raises:
        GrammarError: the grammar matches only the empty text, or cannot be followed.
    """
    rng = random.Random(0)
    constraint = grammar.create_constraint()
    constraint.mask()
    if constraint.complete:
        raise GrammarError("it matches no text")
    for _ in range(TRIAL_TOKENS):
        bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        bits[stop_token_ids] = 0
        allowed = np.flatnonzero(bits)
        if not len(allowed):
            return
        constraint.accept(int(rng.choice(allowed)))


def refusal_of(status: int, cpu_limit_s: float) -> Refused:
    """Why a trial process ended without a result, by its wait status."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in LIMIT_SIGNALS:
        return Refused(f"it takes longer than {cpu_limit_s} s to compile", timed_out=True)
    return Refused("it is too large, or nested too deeply, to compile")


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
