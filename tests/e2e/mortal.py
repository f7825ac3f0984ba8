"""A service of real models whose worker ends itself in the middle of an answer."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.daemon import Daemon, running
from tests.fakes.mortal_worker import HELD, ORDERS_VARIABLE, write_orders

PROGRAM = "tests.fakes.service"
WORKER = "tests.fakes.mortal_worker"


@dataclass(frozen=True)
class Mortal:
    """A service, and where its workers read when to end."""

    daemon: Daemon
    orders: Path

    def end_after(self, *tokens: int, number: signal.Signals = signal.SIGKILL) -> None:
        """End the worker after this number of tokens; each further number is for the next worker.

        They are counted from the next step on, over all answers.
        """
        write_orders(self.orders, [f"{count} {number.name}" for count in tokens])

    @contextmanager
    def held(self) -> Iterator[None]:
        """No worker that is started in the block begins before the block ends."""
        path = self.orders.with_suffix(HELD)
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    def restarts(self) -> int:
        """How many workers have ended so far."""
        count: int = self.daemon.health()["worker"]["restarts"]
        return count


@contextmanager
def mortal(
    *models: Path | str, flags: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Iterator[Mortal]:
    """A service for these models; its restarts are fast, and it tolerates any number of them."""
    with tempfile.TemporaryDirectory() as folder:
        orders = Path(folder) / "orders"
        own = {ORDERS_VARIABLE: str(orders), **(environ or {})}
        chosen = ["--worker", WORKER, *flags]
        with running(*models, flags=chosen, environ=own, program=PROGRAM) as daemon:
            yield Mortal(daemon, orders)
