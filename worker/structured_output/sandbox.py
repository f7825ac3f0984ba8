"""The sandbox that compiles grammars first: `python -m worker.structured_output.sandbox`.

A grammar of a client may take minutes or gigabytes to compile, or overflow the stack of
whatever compiles it; llguidance (1.9.1) was seen to do all three. So each is first compiled in
a process of its own, forked here with the vocabulary already made, that the system ends when
its time is up. What passes costs the worker no more than it did here.
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
READ_BYTES = 65536
OWN_LIMITS = {signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU}
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Passed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The grammar as llguidance reads it, and about how much memory it takes compiled."""

    text: str
    size_bytes: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The grammar cannot be used."""

    reason: str


TrialResult = Passed | Refused
TRIAL_RESULTS: msgspec.msgpack.Decoder[TrialResult] = msgspec.msgpack.Decoder(TrialResult)
GRAMMARS: msgspec.msgpack.Decoder[Grammar] = msgspec.msgpack.Decoder(Grammar)


def main(connection: Connection) -> None:
    """Answer each grammar that comes with a `TrialResult`, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(EOFError, OSError):
        vocabulary = msgspec.msgpack.decode(connection.recv_bytes(), type=Vocabulary)
        # Once here, so that what is made only once is no part of any check.
        check(msgspec.msgpack.encode(JsonObject()), vocabulary)
        while True:
            connection.send_bytes(check_apart(connection.recv_bytes(), vocabulary))


def check_apart(asked: bytes, vocabulary: Vocabulary) -> bytes:
    """The verdict on one encoded grammar, found in a process of its own."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of the parent may run in here after this.
        try:
            limit()
            with os.fdopen(theirs, "wb") as pipe:
                pipe.write(msgspec.msgpack.encode(check(asked, vocabulary)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return told or msgspec.msgpack.encode(Refused(fate(status)))


def limit() -> None:
    """Let the system end this process at any of the bounds."""
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    for kind, most in (
        (resource.RLIMIT_STACK, STACK_LIMIT_BYTES),
        (resource.RLIMIT_DATA, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def check(asked: bytes, vocabulary: Vocabulary) -> TrialResult:
    """Compile the grammar and follow it for some tokens."""
    # The first compilation after a fork touches memory that is no part of its grammar.
    compile_text(to_llguidance(JsonObject()), vocabulary).begin().mask()
    before = peak_bytes()
    try:
        text = to_llguidance(GRAMMARS.decode(asked))
        try_out(compile_text(text, vocabulary), vocabulary.ends)
    except GrammarError as error:
        return Refused(str(error))
    return Passed(text, len(text) + peak_bytes() - before)


def try_out(grammar: CompiledGrammar, ends: list[int]) -> None:
    """Write the beginning of some answer.

    Raises:
        GrammarError: there is none but the empty one, or it cannot be followed.
    """
    draw = random.Random(0)
    constraint = grammar.begin()
    constraint.mask()
    if constraint.complete:
        raise GrammarError("it matches no text")
    for _ in range(TRIAL_TOKENS):
        bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        bits[ends] = 0
        allowed = np.flatnonzero(bits)
        if not len(allowed):
            return
        constraint.accept(int(draw.choice(allowed)))


def fate(status: int) -> str:
    """Why a process ended that could not say so."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in OWN_LIMITS:
        return f"it takes longer than {CPU_LIMIT_S} s to compile"
    return "it is too large, or nested too deeply, to compile"


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT_BYTES


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
