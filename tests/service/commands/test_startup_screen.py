"""The startup output, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import msgspec
import pytest
from rich.console import Console

from protocol.messages import Loading, Ready
from protocol.model_states import ModelInfo
from protocol.stats import Device, Memory
from protocol.wiring import Wiring
from service.commands.startup_screen import StartupScreen, curl_line, summary
from service.supervision.preloads import Preloads

GIB = 1 << 30
MODELS = [
    ModelInfo(
        id="org/one",
        family="llama",
        context_length=8192,
        vocabulary_size=1000,
        weight_bytes=2 * GIB,
        load_ms=1500.0,
    ),
    ModelInfo(
        id="two",
        family="qwen3",
        context_length=4096,
        vocabulary_size=1000,
        weight_bytes=GIB,
        load_ms=500.0,
    ),
]
READY = Ready(
    device=Device("Apple M4 Max", "Metal", 64 * GIB),
    memory=Memory(active=3 * GIB, peak=3 * GIB, cache=0, limit=48 * GIB),
)


def show(*, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=60)
    screen = StartupScreen(console)
    for done in (0, GIB, 2 * GIB):
        screen.show_loading(Loading("org/one", done, 2 * GIB))
    screen.show_ready(READY, MODELS, url="http://127.0.0.1:8000", preloads=Preloads())
    return output.getvalue()


def test_the_screen_names_models_device_memory_and_url() -> None:
    text = show(terminal=False)
    for part in (
        "org/one",
        "two",
        "8,192",
        "Apple M4 Max (Metal)",
        "3.0 GiB of 48.0 GiB",
        ":8000/v1",
        "page     http://127.0.0.1:8000/",
    ):
        assert part in text


def test_the_example_request_is_one_line_on_a_narrow_terminal() -> None:
    [line] = [line for line in show(terminal=True).splitlines() if "curl" in line]
    assert "http://127.0.0.1:8000/v1/chat/completions" in line
    assert line.rstrip().endswith("'")


def test_the_example_is_of_what_the_models_are_for() -> None:
    vectors = msgspec.structs.replace(MODELS[0], capabilities=["embeddings"])
    scores = msgspec.structs.replace(MODELS[0], capabilities=["rerank"])
    assert "/v1/embeddings" in curl_line("", [vectors])
    assert "/v1/rerank" in curl_line("", [scores])
    assert "/v1/chat/completions" in curl_line("", [vectors, *MODELS])


def test_load_progress_is_a_bar_on_a_terminal() -> None:
    assert "\x1b[" in show(terminal=True)


def test_load_progress_is_a_first_and_a_last_line_elsewhere() -> None:
    lines = [line for line in show(terminal=False).splitlines() if line.startswith("load")]
    assert lines == ["loading org/one (2.0 GiB)", "loaded org/one (2.0 GiB)"]


@pytest.mark.parametrize("limit_bytes", [0, 40 * GIB])
def test_what_is_wired_is_told_where_it_is_asked_for(limit_bytes: int) -> None:
    assert "wired" not in dict(summary(READY, MODELS, url="", preloads=Preloads()))
    ready = msgspec.structs.replace(READY, wiring=Wiring(limit_bytes, "for a reason"))
    rows = dict(summary(ready, MODELS, url="", preloads=Preloads()))
    assert rows["wired"] == f"{'40.0 GiB' if limit_bytes else 'nothing'}: for a reason"


def test_the_preloaded_libraries_are_shown_on_a_linux_cpu_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    cpu = msgspec.structs.replace(READY, device=Device("AMD EPYC", "CPU", 64 * GIB))
    assert ("", "preloaded: a.so, b.so") in summary(
        cpu, MODELS, url="", preloads=Preloads("a.so", "b.so")
    )
    rows = [
        value
        for _, value in summary(cpu, MODELS, url="", preloads=Preloads(None, "b.so"))
        if "preloaded" in value
    ]
    assert rows == ["preloaded: b.so: MLX's own BLAS is slow, install OpenBLAS"]
    assert not any(
        "preloaded" in value
        for _, value in summary(READY, MODELS, url="", preloads=Preloads("a.so"))
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not any(
        "preloaded" in value for _, value in summary(cpu, MODELS, url="", preloads=Preloads())
    )
