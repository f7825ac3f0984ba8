"""The grammar sandbox, a child process: `python -m worker.structured_output.sandbox`.

A client's grammar may take minutes or gigabytes to compile, or overflow the stack; all three
were seen with llguidance (1.9.1). So each grammar is compiled here first, in a forked process
with resource limits that the system enforces. The vocabulary is loaded before the fork. A
grammar that passes the trial takes the worker no more time and memory than it took here.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from protocol.grammars import Grammar, JsonObject
from worker.structured_output.constraint import CompiledGrammar, GrammarError, compile_text
from worker.structured_output.llguidance_source import to_llguidance
from worker.structured_output.vocabulary import Vocabulary

CPU_LIMIT_S = 0.8
TIME_LIMIT_S = 2.0
STACK_LIMIT_BYTES = 4 * 1024 * 1024
MEMORY_LIMIT_BYTES = 1024 * 1024 * 1024
NICENESS = 5
TRIAL_TOKENS = 48
LIMIT_SIGNALS = {signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU}
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Passed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The grammar in llguidance's format, and the approximate memory of its compiled form."""

    text: str
    size_bytes: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The grammar is invalid or exceeds a limit."""

    reason: str


TrialResult = Passed | Refused
RESULT_DECODER: msgspec.msgpack.Decoder[TrialResult] = msgspec.msgpack.Decoder(TrialResult)
GRAMMAR_DECODER: msgspec.msgpack.Decoder[Grammar] = msgspec.msgpack.Decoder(Grammar)


def main(connection: Connection) -> None:
    """Send a `TrialResult` for each grammar received, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(EOFError, OSError):
        vocabulary = msgspec.msgpack.decode(connection.recv_bytes(), type=Vocabulary)
        # Initialise everything that is lazy once, outside any trial.
        try_grammar(msgspec.msgpack.encode(JsonObject()), vocabulary)
        while True:
            connection.send_bytes(run_trial(connection.recv_bytes(), vocabulary))


def run_trial(encoded: bytes, vocabulary: Vocabulary) -> bytes:
    """Fork a process that tries one encoded grammar; the encoded `TrialResult`."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # The child must never return into the code of its parent.
        try:
            set_limits()
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(msgspec.msgpack.encode(try_grammar(encoded, vocabulary)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    return result or msgspec.msgpack.encode(Refused(exit_reason(status)))


def set_limits() -> None:
    """Limit the time, stack and memory of this process."""
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    for kind, limit in (
        (resource.RLIMIT_STACK, STACK_LIMIT_BYTES),
        (resource.RLIMIT_DATA, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def try_grammar(encoded: bytes, vocabulary: Vocabulary) -> TrialResult:
    """Compile the grammar and generate some tokens with it."""
    # The first compilation after a fork touches memory that does not belong to the grammar.
    compile_text(to_llguidance(JsonObject()), vocabulary).create_constraint().mask()
    peak_before = peak_bytes()
    try:
        text = to_llguidance(GRAMMAR_DECODER.decode(encoded))
        generate_sample(compile_text(text, vocabulary), vocabulary.stop_token_ids)
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


def exit_reason(status: int) -> str:
    """Why a trial process ended without a result, by its wait status."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in LIMIT_SIGNALS:
        return f"it takes longer than {CPU_LIMIT_S} s to compile"
    return "it is too large, or nested too deeply, to compile"


def peak_bytes() -> int:
    """The peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT_BYTES


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
