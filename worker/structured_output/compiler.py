"""Compiles grammars for one model and caches the most recently used results."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from worker.structured_output.answer_grammar import AnyGrammar
from worker.structured_output.constraint import CompiledGrammar, GrammarError, compile_text
from worker.structured_output.sandbox import CPU_LIMIT_S, Refused
from worker.structured_output.sandbox_client import SandboxClient
from worker.structured_output.slow_grammars import SlowGrammars
from worker.structured_output.vocabulary import Vocabulary

MAX_CACHED_GRAMMARS = 128
MAX_CACHED_BYTES = 64 * 1024 * 1024
MIN_GRAMMAR_BYTES = 64 * 1024  # the measured size of a small schema

# Most grammars compile within this processor time; the others wait for all of those.
QUICK_CPU_LIMIT_S = 0.2

# The first attempt fails if the sandbox exited since the last trial.
ATTEMPTS = 2

NO_VOCABULARY = "this model's tokenizer does not support grammars"

CompileResult = CompiledGrammar | GrammarError


class GrammarCompiler:
    """Compiles grammars for one vocabulary; thread-safe.

    With no vocabulary (None) llguidance cannot read the tokenizer, and every grammar is refused.
    """

    def __init__(
        self, vocabulary: Vocabulary | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.vocabulary = vocabulary
        self._sandbox = None if vocabulary is None else SandboxClient(vocabulary)
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, CompileResult] = OrderedDict()
        self._cached_bytes = 0
        self._slow = SlowGrammars(clock)

    @property
    def sandbox_pid(self) -> int | None:
        """The process id of the sandbox, while it runs."""
        return None if self._sandbox is None else self._sandbox.pid

    def cached(self, grammar: AnyGrammar) -> CompileResult | None:
        """The result of an earlier compilation; None if it is not in the cache."""
        key = cache_key(grammar)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            return self._slow.refusal_of(key)

    def compile(self, grammar: AnyGrammar, *, quick: bool = False) -> CompileResult:
        """The compiled grammar or the error; takes seconds if the result is not cached.

        With `quick` a grammar that needs longer than `QUICK_CPU_LIMIT_S` times out; this is
        not remembered.
        """
        if (cached := self.cached(grammar)) is not None:
            return cached
        for _ in range(ATTEMPTS):
            try:
                result = self._compile(grammar, QUICK_CPU_LIMIT_S if quick else CPU_LIMIT_S)
            except (EOFError, OSError):
                continue
            self._keep(cache_key(grammar), result, quick=quick)
            return result
        return GrammarError("it could not be checked")

    def close(self) -> None:
        """Stop the sandbox."""
        if self._sandbox is not None:
            self._sandbox.close()

    def _compile(self, grammar: AnyGrammar, cpu_limit_s: float) -> CompileResult:
        if self.vocabulary is None or self._sandbox is None:
            return GrammarError(NO_VOCABULARY)
        trial = self._sandbox.try_grammar(grammar, cpu_limit_s)
        if isinstance(trial, Refused):
            return GrammarError(trial.reason, timed_out=trial.timed_out)
        try:
            return compile_text(trial.text, self.vocabulary, trial.size_bytes)
        except GrammarError as error:
            return error

    def _keep(self, key: bytes, result: CompileResult, *, quick: bool) -> None:
        """Remember the result. A time-out is no property of the grammar, so it is not cached."""
        with self._lock:
            if not isinstance(result, GrammarError) or not result.timed_out:
                self._slow.remove(key)
                self._insert(key, result)
            elif not quick:
                self._slow.add(key, result)

    def _insert(self, key: bytes, result: CompileResult) -> None:
        self._evict(key)
        self._cache[key] = result
        self._cached_bytes += size_of(result)
        while len(self._cache) > MAX_CACHED_GRAMMARS or (
            self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1
        ):
            self._evict(next(iter(self._cache)))

    def _evict(self, key: bytes) -> None:
        if (evicted := self._cache.pop(key, None)) is not None:
            self._cached_bytes -= size_of(evicted)


def cache_key(grammar: AnyGrammar) -> bytes:
    """A hash of the grammar."""
    return hashlib.sha256(msgspec.msgpack.encode(grammar)).digest()


def size_of(result: CompileResult) -> int:
    """The approximate memory of a cached result, in bytes."""
    return max(result.size_bytes if isinstance(result, CompiledGrammar) else 0, MIN_GRAMMAR_BYTES)
