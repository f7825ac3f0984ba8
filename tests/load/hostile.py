"""Hostile clients, one kind after the other, beside steady streams and a pinger."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil
from rich.console import Console

from tests.e2e import plain_http
from tests.e2e.daemon import running
from tests.load.attack.bodies import chat
from tests.load.attack.kinds import KINDS
from tests.load.bystanders import Seen
from tests.load.tables import wide_console
from tests.load.usage import SERVER, WORKER, Meter, listener_of
from tests.load.verdicts import (
    Limits,
    Row,
    Window,
    cells,
    count_errors,
    count_outcomes,
    first_tokens,
    longest_gap,
    markdown,
    middle,
    rate_of,
    unanswered,
)
from tests.load.vocabulary import make_large
from tests.waiting import HANG_S

Counts = Mapping[str, int]
# A client, and the file of its output.
Started = tuple[subprocess.Popen[bytes], Path]

# Of the files of the clients' outputs.
NUMBERS = itertools.count()
SETTLE_S = 2.0
LOOK_EVERY_S = 0.05
END_S = 30.0
CALM_S = 1.0
PING = chat("ping", max_tokens=1)
JSON = {"content-type": "application/json"}
SECONDS = 20.0
MEMORY_LIMIT_BYTES = 2 * 2**30
SHORT_SECONDS = 3.0
SHORT_QUIET_SECONDS = 1.0
SHORT_KINDS = ["n128", "letter", "schemas", "bodies", "malformed"]
# A busy machine is this much slower: in the short form, a first token is late only beyond it.
SHORT_FACTOR = 30
SHORT_REMARK = (
    f"Short form: a first token may take {SHORT_FACTOR} times as long; gaps and rates do not count."
)
NICE_REMARK = "The hostile clients run at a niceness of {}."
MODELS = ("built-in", "large")
CONTEXT_TOKENS = 2048
# The lowest priority: the clients use what the server and the bystanders leave of the processors.
CLIENTS_NICE = 19


@dataclass(frozen=True)
class Server:
    """A running service; `context` is its model's, in tokens."""

    name: str
    url: str
    pid: int
    context: int


class Clients:
    """Processes of this script's clients; each one's output goes to a file."""

    def __init__(self, server: Server, folder: Path) -> None:
        host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
        context = str(server.context)
        self._target = ["--host", str(host), "--port", str(port), "--context", context]
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def start(self, module: str, *words: str) -> Started:
        """Start one client."""
        file = self._folder / f"client {next(NUMBERS)}"
        command = [sys.executable, "-m", f"tests.load.{module}", *words, *self._target]
        with file.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.DEVNULL
            )
        self._stack.callback(end, process)
        return process, file

    def close(self) -> None:
        """End them all."""
        self._stack.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def finish(started: Started) -> bytes:
    """End a client; all that it printed."""
    process, output = started
    end(process)
    return output.read_bytes()


class Watch:
    """The memory of the service and its children, and the restarts of its worker."""

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self._meter = Meter(server.pid)
        self._meter.begin()
        self._restarts = self._read_restarts()

    def until(self, moment: float) -> None:
        """Sample the memory until then."""
        while time.monotonic() < moment:
            # A child may end while it is looked at.
            with contextlib.suppress(psutil.NoSuchProcess):
                self._meter.look()
            time.sleep(LOOK_EVERY_S)

    def peaks(self) -> tuple[int, int]:
        """The most bytes seen resident, of the service and of all its children."""
        peak = self._meter.end().peak_bytes
        return peak[SERVER], peak.get(WORKER, 0)

    def restarts(self) -> int:
        """How often the worker has been restarted meanwhile."""
        return self._read_restarts() - self._restarts

    def _read_restarts(self) -> int:
        count: int = plain_http.get(f"{self._url}/health").json()["worker"]["restarts"]
        return count


def prepare(clients: Clients, name: str, nice: int) -> list[Started]:
    """Start the clients of one kind; the start of a client's interpreter is no load of its kind."""
    words = (name, "--wait", "--nice", str(nice))
    hostile = [
        clients.start("attack", *words, "--part", str(part)) for part in range(KINDS[name].clients)
    ]
    until = time.monotonic() + END_S
    while not all(output.stat().st_size for _, output in hostile):
        if time.monotonic() > until:
            raise SystemExit("the hostile clients did not start")
        time.sleep(LOOK_EVERY_S)
    return hostile


def attack(hostile: list[Started], watch: Watch, seconds: float) -> tuple[Window, Counts]:
    """Let the clients begin; when that was, and how often each outcome came."""
    window = Window(time.monotonic(), time.monotonic() + seconds)
    for process, _ in hostile:
        assert process.stdin is not None
        process.stdin.close()
    watch.until(window.end)
    for process, _ in hostile:
        process.terminate()
    return window, count_outcomes(
        line for one in hostile for line in finish(one).decode().splitlines()
    )


def probe(server_url: str, timeout_s: float) -> None:
    """Ask for one token, so that the model is loaded and nothing waits before this request."""
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(
            f"{server_url}/v1/chat/completions", content=PING, headers=JSON, timeout=timeout_s
        )


def observe(server: Server, name: str, options: argparse.Namespace, folder: Path) -> Row:
    """Start the bystanders, look at them undisturbed, then beside one kind of client."""
    clients = Clients(server, folder)
    try:
        watch = Watch(server)
        hostile = prepare(clients, name, options.clients_nice)
        streams = clients.start("bystanders", "streams", "--streams", str(options.streams))
        pings = clients.start("bystanders", "pings")
        watch.until(time.monotonic() + SETTLE_S)
        quiet = Window(time.monotonic(), time.monotonic() + options.quiet_seconds)
        watch.until(quiet.end)
        loud, outcomes = attack(hostile, watch, options.seconds)
        probe(server.url, options.recover_seconds)
        watch.until(time.monotonic() + CALM_S)
        service_bytes, worker_bytes = watch.peaks()
        seen_until = time.monotonic()
        alone = send_to_sink(server, name, options, folder) if KINDS[name].has_floor else None
        seen = [msgspec.json.decode(finish(one), type=list[Seen]) for one in (streams, pings)]
        firsts = first_tokens(seen[1], loud, seen_until)
        return Row(
            model=server.name,
            kind=KINDS[name].title,
            pings=len(firsts),
            first_p50_s=middle(firsts),
            first_max_s=max(firsts, default=0.0),
            unanswered=unanswered(seen[1], loud),
            quiet_first_max_s=max(first_tokens(seen[1], quiet, seen_until), default=0.0),
            quiet_gap_s=longest_gap(seen[0], quiet),
            gap_s=longest_gap(seen[0], loud),
            rate=rate_of(seen[0], quiet, loud),
            service_bytes=service_bytes,
            worker_bytes=worker_bytes,
            restarts=watch.restarts(),
            floor_gap_s=None if alone is None else longest_gap(seen[0], alone),
            floor_rate=None if alone is None else rate_of(seen[0], quiet, alone),
            ping_errors=count_errors(seen[1], loud),
            stream_errors=count_errors(seen[0], loud),
            outcomes=outcomes,
            clients_nice=options.clients_nice,
        )
    finally:
        clients.close()


def send_to_sink(server: Server, name: str, options: argparse.Namespace, folder: Path) -> Window:
    """Let the same clients send to a server that reads and forgets; when that was."""
    command = [sys.executable, "-m", "tests.load.attack.sink"]
    sink = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert sink.stdout is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(sink.stdout)
        stack.callback(end, sink)
        url = f"http://127.0.0.1:{int(sink.stdout.readline())}"
        clients = Clients(replace(server, url=url), folder)
        stack.callback(clients.close)
        hostile = prepare(clients, name, options.clients_nice)
        window, _ = attack(hostile, Watch(server), options.seconds)
        return window


@contextlib.contextmanager
def server_of(name: str, model: Path | None, options: argparse.Namespace) -> Iterator[Server]:
    """The server of `--url`, or a new one."""
    if options.url:
        pid = options.pid or listener_of(options.url)
        if pid is None:
            raise SystemExit("the server's process is not found; name it with --pid")
        yield Server(name, options.url, pid, context_of(options.url))
        return
    flags = ["--memory-limit-bytes", str(options.memory_limit_bytes), "--log-level", "warning"]
    with running(*([f"default_model={model}"] if model else []), flags=flags) as daemon:
        probe(daemon.url, HANG_S)
        yield Server(name, daemon.url, daemon.process.pid, context_of(daemon.url))


def context_of(url: str) -> int:
    """The context length of the first model, in tokens; `CONTEXT_TOKENS` where it is not told."""
    [first, *_] = plain_http.get(f"{url}/v1/models").json()["data"]
    return int(first.get("context_length") or CONTEXT_TOKENS)


def observe_all(options: argparse.Namespace, console: Console) -> Iterator[Row]:
    """A row for each model and kind, each kind on a server of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model_name in ["given"] if options.url else options.models:
            model = None
            if model_name == "large":
                model, origin = make_large(folder, options.vocabulary)
                console.print(f"The vocabulary of `large` is {origin}.", highlight=False)
            for kind in options.kinds:
                with server_of(model_name, model, options) as server:
                    yield observe(server, kind, options, folder)


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits; in the short form those alone that a busy machine does not change."""
    if options.short:
        late_s = SHORT_FACTOR * Limits.first_token_s
        return Limits(options.memory_limit_bytes, first_token_s=late_s, gap_s=None, rate=None)
    return Limits(options.memory_limit_bytes)


def words_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated words out of `choices`."""
    known = list(choices)

    def words(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{unknown} is none of {', '.join(known)}")
        return chosen

    return words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--url", help="of a running server; else one is started for each kind")
    parser.add_argument("--pid", type=int, help="the server's process id, where it cannot be found")
    parser.add_argument("--models", type=words_of(MODELS), default=list(MODELS), metavar="NAMES")
    parser.add_argument("--kinds", type=words_of(KINDS), metavar="NAMES", help=", ".join(KINDS))
    parser.add_argument("--vocabulary", type=Path, help="a GGUF file, instead of fetching one")
    parser.add_argument("--streams", type=int, default=8, help="beside the hostile client")
    parser.add_argument("--seconds", type=float, help="that each kind lasts")
    parser.add_argument("--quiet-seconds", type=float, default=5.0, help="before it")
    parser.add_argument(
        "--recover-seconds", type=float, default=60.0, help="that an answer is waited for after it"
    )
    parser.add_argument(
        "--clients-nice", type=int, default=CLIENTS_NICE, help="the hostile clients' niceness"
    )
    parser.add_argument("--memory-limit-bytes", type=int, default=MEMORY_LIMIT_BYTES)
    parser.add_argument("--short", action="store_true", help="a few kinds, for a busy machine")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--table", type=Path, help="a file for the table, in Markdown")


def complete(options: argparse.Namespace) -> None:
    """Set what depends on the form."""
    if options.short:
        options.models, options.quiet_seconds = ["built-in"], SHORT_QUIET_SECONDS
    options.kinds = options.kinds or (SHORT_KINDS if options.short else list(KINDS))
    options.seconds = options.seconds or (SHORT_SECONDS if options.short else SECONDS)


def table_of(rows: Sequence[Row], options: argparse.Namespace, limits: Limits) -> str:
    """The rows as a table in Markdown, behind what the clients' priority was."""
    return f"{NICE_REMARK.format(options.clients_nice)}\n\n{markdown(rows, limits)}"


def main(options: argparse.Namespace) -> int:
    """Run all kinds; returns 1 if a row is wrong."""
    # Ended by a signal, it ends all that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    complete(options)
    console, limits, rows = wide_console(), limits_of(options), []
    console.print(NICE_REMARK.format(options.clients_nice), highlight=False)
    for row in observe_all(options, console):
        rows.append(row)
        console.print(" | ".join(cells(row, limits)), highlight=False, soft_wrap=True)
    if options.short:
        console.print(SHORT_REMARK, highlight=False)
    if options.table:
        options.table.write_text(table_of(rows, options, limits), encoding="utf-8")
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    return int(any(row.faults(limits) for row in rows))
