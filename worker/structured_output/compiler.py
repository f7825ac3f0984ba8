"""Compiles grammars for one model, and keeps those that were asked for last."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import msgspec

from protocol.grammars import Grammar
from worker.structured_output.constraint import CompiledGrammar, GrammarError, compile_text
from worker.structured_output.sandbox import Refused
from worker.structured_output.sandbox_client import SandboxClient
from worker.structured_output.vocabulary import Vocabulary

KEPT_GRAMMARS = 128
KEPT_BYTES = 64 * 1024 * 1024
LEAST_SIZE_BYTES = 64 * 1024  # what a small schema was measured to take

# A checking process that was ended between two checks is noticed by the next one.
ATTEMPTS = 2

NO_VOCABULARY = "this model's tokenizer is none that answers can be held to a grammar with"

CompileResult = CompiledGrammar | GrammarError


class GrammarCompiler:
    """Grammars of one vocabulary; None is one that llguidance cannot read. Any thread may call."""

    def __init__(self, vocabulary: Vocabulary | None) -> None:
        self.vocabulary = vocabulary
        self._checker = None if vocabulary is None else SandboxClient(vocabulary)
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, CompileResult] = OrderedDict()
        self._kept_bytes = 0

    @property
    def checking_pid(self) -> int | None:
        """The process that checks the grammars, while there is one."""
        return None if self._checker is None else self._checker.pid

    def known(self, grammar: Grammar) -> CompileResult | None:
        """What came of this grammar before, where that is still kept."""
        key = key_of(grammar)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def compile(self, grammar: Grammar) -> CompileResult:
        """The grammar ready for use, or why it cannot be: known at once, else within seconds."""
        if (known := self.known(grammar)) is not None:
            return known
        for _ in range(ATTEMPTS):
            try:
                outcome = self._compile(grammar)
            except (EOFError, OSError):
                continue
            self._keep(key_of(grammar), outcome)
            return outcome
        return GrammarError("it could not be checked")

    def close(self) -> None:
        """End what checks the grammars."""
        if self._checker is not None:
            self._checker.close()

    def _compile(self, grammar: Grammar) -> CompileResult:
        if self.vocabulary is None or self._checker is None:
            return GrammarError(NO_VOCABULARY)
        verdict = self._checker.check(grammar)
        if isinstance(verdict, Refused):
            return GrammarError(verdict.reason)
        try:
            return compile_text(verdict.text, self.vocabulary, verdict.size_bytes)
        except GrammarError as error:
            return error

    def _keep(self, key: bytes, outcome: CompileResult) -> None:
        with self._lock:
            self._drop(key)
            self._kept[key] = outcome
            self._kept_bytes += size_of(outcome)
            while len(self._kept) > KEPT_GRAMMARS or (
                self._kept_bytes > KEPT_BYTES and len(self._kept) > 1
            ):
                self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        if (dropped := self._kept.pop(key, None)) is not None:
            self._kept_bytes -= size_of(dropped)


def key_of(grammar: Grammar) -> bytes:
    """What tells this grammar from others."""
    return hashlib.sha256(msgspec.msgpack.encode(grammar)).digest()


def size_of(outcome: CompileResult) -> int:
    """About how much memory keeping it takes."""
    return max(outcome.size_bytes if isinstance(outcome, CompiledGrammar) else 0, LEAST_SIZE_BYTES)
