"""What the terminal shows while the service starts: progress of loading, then one screen."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from protocol.messages import LoadedModel, Loading, Ready
from service.preloads import Preloads, describe_preloads

MIB = 1 << 20
GIB = 1 << 30


class StartScreen:
    """Progress bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("loading {task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def show_loading(self, loading: Loading) -> None:
        """Show how far one model is."""
        if not self._console.is_terminal:
            self._print_loading(loading)
            return
        self._progress.start()
        if loading.model not in self._tasks:
            self._tasks[loading.model] = self._progress.add_task(loading.model)
        self._progress.update(
            self._tasks[loading.model], completed=loading.done_bytes, total=loading.total_bytes
        )

    def show_ready(
        self, ready: Ready, url: str, preloads: Preloads, *, keyed: bool = False
    ) -> None:
        """Show what is served, where, and how to try it; `keyed`: only with an API key."""
        self.close()
        table = Table.grid(padding=(0, 2))
        for name, value in summary(ready, url, preloads):
            table.add_row(name, value)
        self._console.print(table, soft_wrap=True)
        # Written as it must be typed, on one line, whatever the terminal's width.
        self._console.print(
            "\n" + curl_line(url, keyed=keyed), soft_wrap=True, highlight=False, markup=False
        )

    def close(self) -> None:
        """Take the progress display away."""
        if self._tasks:
            self._progress.stop()

    def _print_loading(self, loading: Loading) -> None:
        if loading.done_bytes in (0, loading.total_bytes):
            state = "loading" if loading.done_bytes == 0 else "loaded"
            size = in_units(loading.total_bytes)
            self._console.print(f"{state} {loading.model} ({size})", highlight=False, markup=False)


def summary(ready: Ready, url: str, preloads: Preloads) -> list[tuple[str, str]]:
    """The rows of the start screen."""
    models = [("" if place else "model", describe(m)) for place, m in enumerate(ready.models)]
    memory = ready.memory
    preloaded = describe_preloads(ready.device, preloads)
    return [
        *models,
        ("device", f"{ready.device.name} ({ready.device.backend})"),
        *([("", f"preloaded: {preloaded}")] if preloaded is not None else []),
        ("memory", f"{in_units(memory.active)} of {in_units(memory.limit)} in use"),
        ("serving", f"{url}/v1"),
        ("page", f"{url}/"),
    ]


def describe(model: LoadedModel) -> str:
    """One model on one line."""
    size = in_units(model.weight_bytes)
    loaded = f"loaded in {model.load_ms / 1000:.1f} s"
    return f"{model.id}  ({model.family}, {size}, context {model.context_length:,}, {loaded})"


def in_units(size: int) -> str:
    """A size in bytes as people read it."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def curl_line(url: str, *, keyed: bool = False) -> str:
    """A request to try, streamed."""
    key = " -H 'authorization: Bearer YOUR_KEY'" if keyed else ""
    body = (
        '{"model": "default", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    )
    return f"curl -N {url}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"
