"""What MLX says of the device, and of each model once it is loaded."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution, version

import mlx.core as mx

from worker.memory.device import describe_device
from worker.selftest.measurement import Section
from worker.selftest.subject import Subject

GIB, MIB = 1 << 30, 1 << 20
# MLX's kernels are in a package of their own on macOS.
WHEELS = ("mlx-metal", "mlx-cpu", "mlx")


def describe(section: Section) -> None:
    """The device, and the installed MLX."""
    info = mx.device_info()
    device = describe_device()
    section.report("mlx", version("mlx"))
    section.report("mlx_lm", version("mlx-lm"))
    section.report("wheel", wheel_tag())
    section.report("backend", device.backend)
    section.report("name", device.name)
    section.report("architecture", str(info.get("architecture", "")))
    for name, key, unit in (
        ("working_set_gib", "max_recommended_working_set_size", GIB),
        ("largest_buffer_gib", "max_buffer_length", GIB),
        ("resources", "resource_limit", 1),
    ):
        if key in info:
            section.report(name, round(int(info[key]) / unit, 2))
        else:
            section.skip(name, "this device does not say")


def wheel_tag() -> str:
    """The platform tag of the installed wheel, such as macosx_26_0_arm64; empty without one."""
    for name in WHEELS:
        try:
            text = distribution(name).read_text("WHEEL") or ""
        except PackageNotFoundError:
            continue
        tags = [line.rpartition("-")[2] for line in text.splitlines() if line.startswith("Tag:")]
        if tags:
            return tags[0]
    return ""


def describe_model(section: Section, subject: Subject) -> None:
    """The model as it is loaded."""
    config = subject.loaded.config
    section.report("load_s", round(subject.load_s, 2), "s")
    section.report("family", config.family)
    section.report("weights_mib", round(subject.loaded.info.weight_bytes / MIB, 1), "MiB")
    section.report("layers", len(getattr(subject.model, "layers", [])))
    section.report("bits", bits_of(subject))
    findings = [*subject.loaded.rules.findings, *subject.loaded.rules.unchecked]
    section.report("findings", len(findings), note="; ".join(findings))


def bits_of(subject: Subject) -> int:
    """The fewest bits of a quantised layer; 0 without one."""
    modules = (module for _, module in subject.model.named_modules())
    bits = [int(module.bits) for module in modules if hasattr(module, "bits")]
    return min(bits, default=0)
