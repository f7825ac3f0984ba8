"""`python -m tests.fakes.mortal_worker FD`: the real worker, which ends where a test says.

A test that kills a worker from outside cannot know how far the answer is by then. This worker
ends itself after a number of tokens, so that the answer is in its middle on any machine.
The file that `ORDERS_VARIABLE` names has a line for each death: a number of tokens, and a signal.
While there is a file beside it with the suffix `HELD`, a worker does not begin.
"""

from __future__ import annotations

import os
import runpy
import signal
from pathlib import Path
from typing import Any

from protocol.channel import Channel
from protocol.events import TextDelta
from protocol.messages import Step
from tests.waiting import wait_for

ORDERS_VARIABLE = "MORTAL_WORKER_ORDERS"
HELD = ".held"
FLUSH_S = 5.0


class Orders:
    """When this worker ends; the next line is for the next worker."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokens: int | None = None
        self._signal = signal.SIGKILL

    def signal_after(self, step: Step) -> signal.Signals | None:
        """The signal that ends this worker now that it has sent this step."""
        if self._tokens is None and not self._take():
            return None
        assert self._tokens is not None
        self._tokens -= sum(
            len(event.tokens) for event in step.events if isinstance(event, TextDelta)
        )
        return self._signal if self._tokens <= 0 else None

    def _take(self) -> bool:
        """Take the first line of the file, if there is one."""
        if not self._path.exists():
            return False
        first, *rest = self._path.read_text().splitlines()
        write_orders(self._path, rest)
        tokens, name = first.split()
        self._tokens, self._signal = int(tokens), signal.Signals[name]
        return True


def write_orders(path: Path, lines: list[str]) -> None:
    """Replace the file at once, or remove it where there is no line."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines))
    new.replace(path)


def main(path: Path) -> None:
    """Run the worker."""
    wait_for(lambda: not path.with_suffix(HELD).exists())
    orders = Orders(path)
    send = Channel.send

    def send_and_end(channel: Channel[Any, Any], message: Any) -> None:
        send(channel, message)
        if isinstance(message, Step) and (number := orders.signal_after(message)) is not None:
            channel.flush(FLUSH_S)
            os.kill(os.getpid(), number)

    Channel.send = send_and_end  # type: ignore[assignment, method-assign]
    runpy.run_module("worker", run_name="__main__")


if __name__ == "__main__":
    main(Path(os.environ[ORDERS_VARIABLE]))
