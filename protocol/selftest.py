"""The results of `mlxd doctor --selftest`: its sections, its figures, and the request for them.

The device's part is a program of its own (`python -m worker.selftest FD`). It reads one
`SelftestRequest` from its standard input, as JSON, and writes `SelftestMessage`s to the descriptor,
one JSON object a line. A report has the figures that `FIGURES` lists and no others.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

Verdict = Literal["", "ok", "near tie", "failed", "skipped"]
"""A measurement without a bound has none."""

Value = float | int | bool | str | None

BUILT_IN, GIVEN = "built-in", "given"
"""Which model a figure is of: the built-in one, or that of `--model`."""


class Figure(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """One result. `at` is what it was measured at: rows, tokens or bytes, by its meaning."""

    section: str
    name: str
    value: Value = None
    unit: str = ""
    at: int | None = None
    model: str = ""
    verdict: Verdict = ""
    note: str = ""


class SectionStarted(msgspec.Struct, frozen=True, tag=True):
    """A section begins; it measures for about this many seconds."""

    section: str
    budget_s: float


class SectionEnded(msgspec.Struct, frozen=True, tag=True):
    """A section has ended after this many seconds."""

    section: str
    seconds: float


SelftestMessage = Figure | SectionStarted | SectionEnded


class SelftestRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The sections to run, with the seconds of each; `source` is that of `--model`, if given."""

    budgets_s: dict[str, float]
    source: str | None = None
    revision: str | None = None


class Budget(NamedTuple):
    """The seconds that a section measures for, of a whole selftest and of a quick one."""

    whole_s: float
    quick_s: float


DEVICE_BUDGETS: dict[str, Budget] = {
    # section of the device's program -> its time, in the order in which they run
    "device": Budget(1.0, 0.5),
    "kernels": Budget(5.0, 1.0),
    "correctness": Budget(15.0, 3.0),
    "passes": Budget(8.0, 1.0),
    "prefill": Budget(8.0, 1.0),
    "batches": Budget(8.0, 1.0),
    "sampler": Budget(8.0, 1.0),
    "memory": Budget(4.0, 0.5),
    "longest": Budget(15.0, 1.5),
}
SERVICE_BUDGETS: dict[str, Budget] = {
    "machine": Budget(1.0, 0.5),
    "system": Budget(3.0, 1.0),
    "resume": Budget(15.0, 4.0),
}
# The figures of the sections that run on the model of `--model`, too.
MODEL_SECTIONS = ("correctness", "passes", "prefill", "batches", "longest")

FAILURE = "failure"
"""The figure of a section that could not be run to its end."""

FIGURES: dict[str, dict[str, str]] = {
    "machine": {
        "mlxd": "version",
        "python": "version",
        "system": "name and version of the operating system",
        "kernel": "version of the kernel",
        "build": "build of macOS",
        "mac_model": "Apple's identifier of the kind of Mac, such as Mac15,9",
        "chip": "name of the processor",
        "cores": "processor cores that may be used",
        "memory_gib": "memory of the machine",
        "available_gib": "memory that is free now",
        "wired_limit_mib": "iogpu.wired_limit_mb; 0 is macOS' default",
        "low_power_mode": "whether it is on",
        "thermal_limit": "the speed that the temperature leaves, in percent",
        "rosetta": "whether Python runs translated",
        "uptime_hours": "time since the system's start",
        "load": "processes that want a core, average of a minute",
    },
    "device": {
        "mlx": "version",
        "mlx_lm": "version",
        "wheel": "platform tag of the installed wheel of MLX",
        "backend": "Metal, CPU or another",
        "name": "name of the device",
        "architecture": "architecture of the GPU",
        "working_set_gib": "recommended largest working set",
        "largest_buffer_gib": "largest single array",
        "resources": "most buffers at a time",
        "load_s": "seconds to load and check the model",
        "findings": "what the check at load does not allow, or does not check",
        "family": "type of the model",
        "weights_mib": "bytes of the model's files",
        "layers": "layers of the model",
        "bits": "bits of its quantised weights; 0 is none",
    },
    "kernels": {
        "neural": "whether MLX has the kernels for this chip's neural accelerators",
        "product_error": "largest relative error of a matrix product with this many rows",
        "product_gflops": "speed of a product of 1,024 x 1,024, by the bits of its numbers",
        "attention_memory": "memory of attention over its scores', by head size; fused: under 1",
    },
    "correctness": {
        "alone": "rows with the expected answer, each alone",
        "batch": "rows with the expected answer in a batch of this many",
        "padding": "rows with the expected answer beside a much longer prompt",
        "prefix": "rows with the expected answer behind a cached prefix",
        "resume": "rows with the expected answer, resumed in its middle",
        "seeded": "sampled rows with the expected answer",
        "penalised": "penalised rows with the expected answer",
        "masked": "rows under a mask with the expected answer",
    },
    "passes": {"pass_ms": "time of a decode pass with this many rows"},
    "prefill": {"tokens_per_s": "speed of a prompt in one slice of this many tokens"},
    "batches": {
        "step_ms": "time of a step of the engine with this many rows",
        "leave_ms": "what the step after a leave takes more",
        "join_ms": "time from the insert of a row to its first token",
        "join_alone_ms": "the same without other rows",
        "growth_ms": "what the step that extends the KV cache takes more",
        "clear_ms": "time of mx.clear_cache beside a step in flight",
        "step_after_clear_ms": "time of the step after it",
        "round_trip_ms": "time to read one number from the device",
    },
    "sampler": {
        "plain_ms": "time to draw 32 rows at this vocabulary, by temperature alone",
        "top_p_ms": "the same with top_p",
        "masked_ms": "the same with top_p and a mask",
        "compiled_plain_ms": "plain, compiled",
        "compiled_top_p_ms": "top_p, compiled",
        "compiled_masked_ms": "masked, compiled",
        "compiled_gain": "how many times faster compiled sampling is, the worst of the three",
    },
    "memory": {
        "counted_share": "footprint's growth over the bytes of this many MiB of arrays",
        "returned_share": "the share of them that the footprint loses after clear_cache",
        "cache_mib": "what MLX keeps for reuse after that",
    },
    "longest": {
        "one_prompt_s": "longest step of one prompt of this many tokens",
        "eight_prompts_s": "longest step of eight prompts of this many tokens each",
        "computed_tokens": "tokens of prompts that were computed in its time",
    },
    "resume": {
        "text": "whether the answer is the same after kill -9",
        "first_token_ms": "the longest wait for a token after the kill",
        "start_ms": "from the service's start to its readiness",
        "stop_ms": "from SIGTERM to the end",
    },
    "system": {
        "panics": "panics of the last 30 days",
        "gpu_panics": "those that name IOGPU",
        "plist": "plutil's verdict on the property list of `mlxd agent`",
        "launchd": "whether launchctl can reach the user's session",
        "assertion": "whether pmset shows the assertion of caffeinate",
    },
}


def is_listed(figure: Figure) -> bool:
    """Whether a report may have this figure."""
    return figure.name == FAILURE or figure.name in FIGURES.get(figure.section, {})
