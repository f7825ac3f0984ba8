"""The preprocessor: prepares submitted requests for the scheduler.

A request passes three stages: its model's files are read ("opened"), its prompt is turned
into token ids, and its grammar is compiled. None of them runs on the thread that submits.
Opening a model takes as long as reading its tokenizer, so each model is opened on a thread of
its own, and only the requests for that model wait. Small prompts are prepared on a thread of
this process, larger ones in a preparation process, and the largest in another one, so that
they delay no smaller ones. A cancelled request is dropped at whatever stage it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from protocol.embedding import Embed
from protocol.events import Rejected, Tokenized
from protocol.messages import ModelSource, Request, Submit
from protocol.tokenization import Tokenize
from worker.cache.disk_store import DiskStore
from worker.intake.compile_queue import CompileQueue, open_schemas, with_grammar
from worker.intake.encoded_submit import EncodedRequest, EncodedSubmit, ids_of, work_bytes_of
from worker.intake.open_models import Arrival, ModelOpening, OpenModels
from worker.intake.preparation_child import ChildRequest
from worker.intake.preparation_process import PreparationProcess
from worker.intake.preparation_queue import PreparationJob, PreparationQueue
from worker.intake.prepared import (
    ModelOpened,
    ModelOpenFailed,
    PreparationResult,
    PreparedPrompt,
    PreparedRequest,
    RequestDeferred,
    for_sequence,
    prepare_prompt,
    prepare_texts,
    to_request,
    tokenize_prompt,
    with_duration,
)
from worker.intake.prepared_texts import (
    PreparedEmbedding,
    PreparedTexts,
    reject_other_kind,
    to_embedding,
)
from worker.memory.preparation import PreparationMemory
from worker.models.model_config import LoadError, ModelConfig
from worker.structured_output.constraint import CompiledGrammar

logger = logging.getLogger(__name__)

# Up to this size a prompt takes some 50 ms on a thread here, and holds the GIL for less.
SMALL_BYTES = 64 * 1024
# Up to this size a prompt takes about a second.
MEDIUM_BYTES = 1024 * 1024
# All prompts that wait for their preparation; more are refused.
MAX_WAITING_BYTES = 256 * 1024 * 1024
# How long a preparation process is kept after its last prompt: starting one takes 1 to 5 s.
MEDIUM_IDLE_S = 600.0
LARGE_IDLE_S = 300.0
WAITING_PROMPTS = "waiting prompts"


class Inbox(Protocol):
    """The destination of the results."""

    def put(self, item: PreparationResult, /) -> None: ...


class ConfigLoader(Protocol):
    """Reads a model's files."""

    def load(self, source: ModelSource, *, download: bool) -> ModelConfig: ...


class PreparationTotals(NamedTuple):
    """What was prepared since the last call: prompts, seconds spent, bytes of encoded prompts."""

    prompts: int = 0
    seconds: float = 0.0
    nbytes: int = 0


class Preprocessor:
    """Requests in preparation, by id. Each method may be called from any thread.

    `send` gets the results of requests for the tokenizer alone, which no device step delays.
    """

    def __init__(
        self,
        sources: Iterable[ModelSource],
        config_loader: ConfigLoader,
        inbox: Inbox,
        disk_store: DiskStore | None = None,
        *,
        send: Callable[[Tokenized | Rejected], None] = lambda result: None,
        memory: PreparationMemory | None = None,
        memory_wait_s: float = 30.0,
    ) -> None:
        self._send = send
        self._sources = {source.id: source for source in sources}
        self._config_loader = config_loader
        self._inbox = inbox
        self._disk_store = disk_store
        self._memory = memory or PreparationMemory()
        self._lock = threading.Lock()
        self._open = OpenModels()
        self._openings: dict[str, ModelOpening] = {}
        self._wants_breakpoints: set[str] = set()
        # The ids of requests that are neither delivered nor cancelled.
        self._pending: set[int] = set()
        self._waiting_bytes = 0
        self._totals = PreparationTotals()
        self._compile_queue = CompileQueue(self._is_pending, self._deliver)
        self._small = PreparationQueue("prepare-small", self._prepare_here)
        self._medium = self._process_queue("medium prompts", memory_wait_s, MEDIUM_IDLE_S)
        self._large = self._process_queue("large prompts", memory_wait_s, LARGE_IDLE_S)

    def __len__(self) -> int:
        """How many sequences are in preparation."""
        return len(self._pending)

    @property
    def memory(self) -> PreparationMemory:
        """The memory that preparation uses outside of this process's own."""
        return self._memory

    def take_totals(self) -> PreparationTotals:
        """What was prepared since the last call."""
        with self._lock:
            totals, self._totals = self._totals, PreparationTotals()
        return totals

    def register(self, config: ModelConfig, *, wants_breakpoints: bool) -> None:
        """Keep a loaded model open; with `wants_breakpoints` its prompts get cache breakpoints."""
        with self._lock:
            if config.id not in self._openings:
                self._open.add(config, for_tokenizer=False)
            if wants_breakpoints:
                self._wants_breakpoints.add(config.id)
            else:
                self._wants_breakpoints.discard(config.id)

    def submit(self, submit: EncodedRequest) -> None:
        """Prepare this request, now or as soon as its model is open."""
        arrival = Arrival(submit, time.monotonic())
        with self._lock:
            self._pending.update(ids_of(submit))
            for_tokenizer = isinstance(submit, Tokenize)
            config = self._open.use(submit.model, for_tokenizer=for_tokenizer)
            if config is None:
                self._opening_of(submit.model).arrivals.append(arrival)
        if config is None:
            self._inbox.put(RequestDeferred(submit.id))
        else:
            self._enqueue(config, arrival)

    def cancel(self, ids: Collection[int]) -> None:
        """Drop these requests; unknown ids are ignored."""
        with self._lock:
            self._pending.difference_update(ids)
        for waiting in (self._small, self._medium, self._large):
            for job in waiting.remove(lambda job: not self._is_pending(job.submit)):
                self._release(job)

    def open(self, model: str) -> None:
        """Open this model unless it is open, then deliver a `ModelOpened`."""
        with self._lock:
            config = self._open.use(model, for_tokenizer=False)
            if config is None:
                self._opening_of(model).announce = True
                return
        self._inbox.put(ModelOpened(config))

    def close(self, model: str) -> None:
        """Drop what was read of this model's files; the next request reads them again."""
        with self._lock:
            config = self._open.remove(model)
        if config is not None:
            config.grammars.close()

    def shut_down(self) -> None:
        """Drop all requests, and end the preparation processes."""
        with self._lock:
            self._pending.clear()
        for waiting in (self._small, self._medium, self._large):
            waiting.close()

    # ------------------------------------------------------------ opening

    def _opening_of(self, model: str) -> ModelOpening:
        """The opening of this model in progress; starts one if there is none."""
        opening = self._openings.get(model)
        if opening is None:
            opening = self._openings[model] = ModelOpening()
            threading.Thread(
                target=self._open_model, args=[model], name=f"open-{model}", daemon=True
            ).start()
        return opening

    def _open_model(self, model: str) -> None:
        try:
            config = self._config_loader.load(self._sources[model], download=False)
        except LoadError as error:
            return self._fail_opening(model, str(error))
        with self._lock:
            opening = self._openings.pop(model)
            dropped = self._open.add(config, for_tokenizer=opening.is_for_tokenizer)
            if opening.announce:
                self._inbox.put(ModelOpened(config))
        if dropped is not None:
            dropped.grammars.close()
        for arrival in opening.arrivals:
            if self._is_pending(arrival.submit):
                self._enqueue(config, arrival, time.monotonic() - arrival.received_at)
        return None

    def _fail_opening(self, model: str, reason: str) -> None:
        logger.error("%s", reason)
        with self._lock:
            opening = self._openings.pop(model)
            if not opening.is_for_tokenizer:
                self._inbox.put(ModelOpenFailed(model, reason))
        for submit, _ in opening.arrivals:
            self._reject(submit, Rejected(submit.id, "model_load_failed", reason, "model"))

    # ------------------------------------------------------------ preparing

    def _process_queue(self, name: str, memory_wait_s: float, idle_s: float) -> PreparationQueue:
        """A queue whose prompts are prepared in a process of their own."""
        process = PreparationProcess(name, self._memory, memory_wait_s=memory_wait_s)
        return PreparationQueue(
            name.replace(" ", "-"),
            lambda job: self._prepare_in(process, job),
            idle_s=idle_s,
            on_idle=process.stop,
        )

    def _enqueue(self, config: ModelConfig, arrival: Arrival, opening_s: float = 0.0) -> None:
        """Queue a request by the size of its prompt; it waited `opening_s` for its model."""
        submit, received_at = arrival
        if (rejected := reject_other_kind(config, submit)) is not None:
            return self._reject(submit, rejected)
        job = PreparationJob(submit, work_bytes_of(submit), received_at, config, opening_s)
        with self._lock:
            nbytes = self._waiting_bytes + submit.nbytes
            if accepted := nbytes <= MAX_WAITING_BYTES:
                self._waiting_bytes = nbytes
                self._memory.reserve(WAITING_PROMPTS, nbytes)
        if not accepted:
            message = "Too many large prompts wait to be prepared."
            self._reject(submit, Rejected(submit.id, "insufficient_memory", message))
        elif job.work_bytes <= SMALL_BYTES:
            self._small.put(job)
        else:
            (self._medium if job.work_bytes <= MEDIUM_BYTES else self._large).put(job)
            self._inbox.put(RequestDeferred(submit.id))
        return None

    def _release(self, job: PreparationJob) -> None:
        """Release the memory of a prompt that no longer waits."""
        with self._lock:
            self._waiting_bytes -= job.submit.nbytes
            self._memory.reserve(WAITING_PROMPTS, self._waiting_bytes)

    def _prepare_here(self, job: PreparationJob) -> None:
        """Prepare a small prompt on this thread."""
        began = time.monotonic()
        if isinstance(job.submit, Tokenize):
            result = tokenize_prompt(job.config.prompts, job.submit)
            return self._finish(job, job.submit, result, began)
        if isinstance(job.submit, Embed):
            rows = prepare_texts(job.config.texts, job.submit, job.config.context_length)
            return self._finish(job, job.submit, rows, began)
        submit = job.submit.decode()
        prepared = prepare_prompt(
            job.config.prompts,
            job.config.parsers,
            submit,
            wants_breakpoints=job.config.id in self._wants_breakpoints,
            enforces_calls=job.config.grammars.vocabulary is not None,
        )
        return self._finish(job, submit, prepared, began)

    def _prepare_in(self, process: PreparationProcess, job: PreparationJob) -> None:
        """Prepare a larger prompt in a process."""
        began = time.monotonic()
        request = ChildRequest(
            model=job.config.prompt_model,
            submit=job.submit,
            wants_breakpoints=job.config.id in self._wants_breakpoints,
            enforces_calls=job.config.grammars.vocabulary is not None,
        )
        prepared = process.prepare(request, lambda: self._is_pending(job.submit))
        submit: Request = job.submit
        if isinstance(prepared, PreparedPrompt) and isinstance(job.submit, EncodedSubmit):
            # Only what fits the context is decoded here.
            submit = job.submit.outline()
        self._finish(job, submit, prepared, began)

    def _finish(
        self,
        job: PreparationJob,
        submit: Request,
        prepared: PreparedPrompt | PreparedTexts | Tokenized | Rejected | None,
        began: float,
    ) -> None:
        """Pass on what came of a request, unless it was cancelled."""
        self._release(job)
        self._count(job, time.monotonic() - began)
        if prepared is None or not self._is_pending(submit):
            return
        match prepared:
            case PreparedPrompt() if isinstance(submit, Submit):
                self._compile(job, submit, prepared)
            case PreparedTexts() if isinstance(submit, Embed):
                times = job.received_at, job.opening_s
                embedding = to_embedding(job.config, submit, prepared, *times)
                self._deliver_one(submit.id, embedding)
            case Tokenized():
                self._send_result(prepared)
            case Rejected():
                self._reject(submit, prepared)

    def _compile(self, job: PreparationJob, submit: Submit, prepared: PreparedPrompt) -> None:
        """Deliver a request, once its grammar is compiled if it has one."""
        request = to_request(job.config, submit, prepared, job.received_at, opening_s=job.opening_s)
        self._fetch_prefixes(request)
        if request.source_grammar is None:
            self._deliver(request.submit, request)
        elif (compiled := job.config.grammars.cached(request.source_grammar)) is not None and (
            isinstance(compiled, CompiledGrammar) or open_schemas(request) is None
        ):
            self._deliver(request.submit, with_grammar(request, compiled))
        else:
            self._inbox.put(RequestDeferred(submit.id))
            self._compile_queue.put(request)

    def _count(self, job: PreparationJob, seconds: float) -> None:
        with self._lock:
            prompts, total_s, nbytes = self._totals
            self._totals = PreparationTotals(
                prompts + 1, total_s + seconds, nbytes + job.submit.nbytes
            )

    def _fetch_prefixes(self, prepared: PreparedRequest) -> None:
        """Start reading the stored prefixes of the prompt and of what follows it in a resume."""
        if self._disk_store is not None:
            first, *others = prepared.submit.sequences()
            for each in [first, *(other for other in others if other.resume)]:
                tokens = prepared.prompt + each.resume
                self._disk_store.fetch(prepared.config.content_key, tokens)

    # ------------------------------------------------------------ delivering

    def _is_pending(self, submit: Request) -> bool:
        """Whether any sequence of this request is still to be delivered."""
        with self._lock:
            return not self._pending.isdisjoint(ids_of(submit))

    def _deliver(self, submit: Submit, result: PreparedRequest | Rejected) -> None:
        """Put each sequence of a request into the inbox, unless it was cancelled."""
        if isinstance(result, PreparedRequest):
            result = with_duration(result, time.monotonic())
        with self._lock:
            for sequence in submit.sequences():
                if sequence.id in self._pending:
                    self._pending.discard(sequence.id)
                    self._inbox.put(for_sequence(result, sequence))

    def _deliver_one(self, id: int, result: PreparedEmbedding | Rejected) -> None:
        """Put a request of one sequence into the inbox, unless it was cancelled."""
        with self._lock:
            if id in self._pending:
                self._pending.discard(id)
                self._inbox.put(result)

    def _reject(self, submit: Request, rejected: Rejected) -> None:
        match submit:
            case Tokenize():
                self._send_result(rejected)
            case Embed():
                self._deliver_one(submit.id, rejected)
            case Submit():
                self._deliver(submit, rejected)

    def _send_result(self, result: Tokenized | Rejected) -> None:
        """Send the result of a request for the tokenizer, unless it was cancelled."""
        with self._lock:
            is_pending = result.id in self._pending
            self._pending.discard(result.id)
        if is_pending:
            self._send(result)
            self._inbox.put(RequestDeferred(result.id))
