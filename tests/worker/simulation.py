"""An engine core over real models in one memory budget; its clock and arrivals are the test's."""

from __future__ import annotations

import dataclasses
import functools
import queue
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import mlx.core as mx

from protocol.events import Rejected
from protocol.messages import (
    CommandResult,
    ModelsChanged,
    ModelSource,
    Shutdown,
    Step,
    Submit,
)
from protocol.stats import Memory
from tests.worker.driver import make_config_loader, make_configure
from worker.intake.prepared import PreparedRequest, prepare
from worker.intake.preprocessor import Preprocessor
from worker.intake.receiver import Work
from worker.memory.budget import Budget, Measure
from worker.memory.kv_cost import KVCost
from worker.models.model_config import ModelConfig
from worker.models.pool import ModelPool
from worker.scheduler.core import EngineCore

STEP_S = 0.05


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# The clock of each pool.
CLOCK_OF: WeakKeyDictionary[ModelPool, Clock] = WeakKeyDictionary()


class Simulation:
    """An engine core over real models; its clock advances by `STEP_S` a step, and at each wait.

    Without `measures_memory` only what is reserved counts. More than `most_steps` messages are
    an error: the requests do not get on.
    """

    def __init__(
        self,
        pool: ModelPool,
        wait_s: float = 30.0,
        *,
        max_running: int = 8,
        context_limit: int = 0,
        measures_memory: bool = True,
        most_steps: int = 10**6,
        stream_interval_s: float = 0.0,
    ) -> None:
        self.pool = pool
        self.clock = CLOCK_OF[pool]
        self.steps: list[Step] = []
        self._most_steps = most_steps
        self.state_changes: list[ModelsChanged] = []
        self.arrivals: list[tuple[float, Submit]] = []
        self._configs: dict[str, ModelConfig] = {}
        self._config_loader = make_config_loader(context_limit)
        inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        start_bytes = mx.get_active_memory() - pool.account.reserved_bytes
        preprocessor = Preprocessor(pool.sources, self._config_loader, inbox)
        self.core = EngineCore(
            pool,
            preprocessor,
            self,
            send=self.send,
            measure_memory=measure_from(start_bytes) if measures_memory else Memory,
            max_running=max_running,
            memory_wait_s=wait_s,
            stream_interval_s=stream_interval_s,
            clock=self.clock,
        )

    @property
    def now(self) -> float:
        return self.clock.now

    @now.setter
    def now(self, now: float) -> None:
        self.clock.now = now

    def send(self, message: Step | ModelsChanged | CommandResult) -> None:
        self.now += STEP_S
        match message:
            case Step():
                self.steps.append(message)
                assert len(self.steps) <= self._most_steps
            case ModelsChanged():
                self.state_changes.append(message)

    def get(self, block: bool = True, timeout: float | None = None) -> Work:
        """The next request that has arrived; a wait advances the clock."""
        while self.arrivals:
            at, submit = self.arrivals[0]
            if at > self.now:
                if not block:
                    raise queue.Empty
                wait_s = at - self.now if timeout is None else min(timeout, at - self.now)
                self.now += wait_s
                if self.now < at:
                    raise queue.Empty
            self.arrivals.pop(0)
            return self._prepare(submit)
        if block and timeout is None:
            return Shutdown()
        if block and timeout is not None:
            self.now += timeout
        raise queue.Empty

    def _prepare(self, submit: Submit) -> PreparedRequest | Rejected:
        if submit.model in self.pool:
            config = self.pool[submit.model].config
        elif (known := self._configs.get(submit.model)) is not None:
            config = known
        else:
            [source] = [s for s in self.pool.sources if s.id == submit.model]
            config = self._config_loader.load(source, download=False)
            self._configs[submit.model] = config
        prepared = prepare(config, submit)
        if isinstance(prepared, PreparedRequest):
            return dataclasses.replace(prepared, received_at=self.now)
        return prepared

    def run(self, submits: Sequence[tuple[float, Submit]]) -> None:
        self.arrivals = sorted(submits, key=lambda pair: pair[0])
        self.core.run()


def measure_from(start_bytes: int) -> Measure:
    """MLX's active memory over `start_bytes`; not the footprint: the tests' process is large."""
    return lambda: Memory(active=mx.get_active_memory() - start_bytes)


def make_pool(
    *paths: Path,
    budget: int = 1 << 40,
    preload: Sequence[str] = (),
    pinned: Sequence[str] = (),
    max_running: int = 8,
    context_limit: int = 0,
) -> ModelPool:
    """A pool with this memory budget and a clock that the test moves."""
    sources = [
        ModelSource(path.name, str(path), pinned=path.name in pinned, idle_s=300.0)
        for path in paths
    ]
    configure = make_configure(sources, preload=list(preload), max_running=max_running)
    clock = Clock()
    loader = make_config_loader(context_limit)
    pool = ModelPool(configure, loader, Budget(budget, 0, 0), clock=clock)
    CLOCK_OF[pool] = clock
    pool.load_all()
    return pool


@functools.cache
def kv_cost_of(path: Path) -> KVCost:
    """What the rows of a model cost; found once, so in one test module's steps of tokens."""
    return make_pool(path, preload=[path.name])[path.name].engine.kv_cost
