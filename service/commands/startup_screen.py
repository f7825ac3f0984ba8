"""The terminal output while the service starts: load progress, then a summary."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from protocol.messages import Loading, Ready
from protocol.model_states import ModelInfo
from protocol.units import format_bytes
from protocol.wiring import describe_wiring
from service.config.secrets import conceal_secrets
from service.schema.capabilities import OPERATOR
from service.supervision.preloads import Preloads, describe_preloads

# The body of a request to each endpoint.
EXAMPLES = {
    "chat/completions": '{"model": "default", "stream": true, '
    '"messages": [{"role": "user", "content": "Hello!"}]}',
    "embeddings": '{"input": "Hello!"}',
    "rerank": '{"query": "Hello?", "documents": ["Hello!", "Goodbye!"]}',
}


class StartupScreen:
    """Shows progress bars on a terminal, and plain lines elsewhere."""

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
        """Show the load progress of one model."""
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
        self,
        ready: Ready,
        models: Sequence[ModelInfo],
        *,
        url: str,
        preloads: Preloads,
        keyed: bool = False,
        softened: Collection[str] = (),
        trusted: Sequence[str] = (),
    ) -> None:
        """Show the models, the device, the URL and an example request.

        With `keyed` the request has an API key. `softened` are the parameters that are ignored
        where a model cannot honour them, `trusted` the models whose own code runs.
        """
        self.close()
        table = Table.grid(padding=(0, 2))
        rows = summary(ready, models, url=url, preloads=preloads)
        if softened:
            rows.append((OPERATOR, ", ".join(sorted(softened))))
        if trusted:
            rows.append(("runs code of", f"{', '.join(trusted)} (trust_remote_code)"))
        for name, value in rows:
            table.add_row(name, conceal_secrets(value))
        self._console.print(table, soft_wrap=True)
        # On one line at any terminal width, so that it can be copied.
        self._console.print(
            "\n" + curl_line(url, models, keyed=keyed),
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    def close(self) -> None:
        """Remove the progress bars."""
        if self._tasks:
            self._progress.stop()

    def _print_loading(self, loading: Loading) -> None:
        if loading.done_bytes in (0, loading.total_bytes):
            state = "loading" if loading.done_bytes == 0 else "loaded"
            size = format_bytes(loading.total_bytes)
            self._console.print(f"{state} {loading.model} ({size})", highlight=False, markup=False)


def summary(
    ready: Ready, models: Sequence[ModelInfo], *, url: str, preloads: Preloads
) -> list[tuple[str, str]]:
    """The rows of the startup screen: a label and a text."""
    memory = ready.memory
    preloaded = describe_preloads(ready.device, preloads)
    return [
        *[("" if index else "model", describe(model)) for index, model in enumerate(models)],
        ("device", f"{ready.device.name} ({ready.device.backend})"),
        *([("", f"preloaded: {preloaded}")] if preloaded is not None else []),
        ("memory", f"{format_bytes(memory.active)} of {format_bytes(memory.limit)} in use"),
        *([("wired", describe_wiring(ready.wiring))] if ready.wiring is not None else []),
        ("serving", f"{url}/v1"),
        ("page", f"{url}/"),
    ]


def describe(model: ModelInfo) -> str:
    """The line of one model."""
    size = format_bytes(model.weight_bytes)
    loaded = f"loaded in {model.load_ms / 1000:.1f} s"
    return f"{model.id}  ({model.family}, {size}, context {model.context_length:,}, {loaded})"


def curl_line(url: str, models: Sequence[ModelInfo] = (), *, keyed: bool = False) -> str:
    """An example of a request: a streamed chat, or what the models are for that do not generate."""
    key = " -H 'authorization: Bearer YOUR_KEY'" if keyed else ""
    uses = [use_of(model) for model in models]
    use = "chat/completions" if "chat/completions" in uses or not uses else uses[0]
    content = f"-H 'content-type: application/json' -d '{EXAMPLES[use]}'"
    return f"curl -N {url}/v1/{use}{key} {content}"


def use_of(model: ModelInfo) -> str:
    """The endpoint that a model is for."""
    if "embeddings" in model.capabilities:
        return "embeddings"
    return "rerank" if "rerank" in model.capabilities else "chat/completions"
