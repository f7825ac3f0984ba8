"""Runs the requested sections one after the other, and writes what they report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import msgspec

from protocol.messages import ModelSource
from protocol.selftest import (
    BUILT_IN,
    FAILURE,
    GIVEN,
    MODEL_SECTIONS,
    Figure,
    SectionEnded,
    SectionStarted,
    SelftestMessage,
    SelftestRequest,
)
from worker.memory.device import prepare_device
from worker.selftest.measurement import Section
from worker.selftest.sections import (
    batches,
    correctness,
    device,
    device_memory,
    kernels,
    longest,
    passes,
    sampling,
)
from worker.selftest.subject import Subject, load_subject

logger = logging.getLogger(__name__)

Send = Callable[[SelftestMessage], None]

ON_DEVICE: dict[str, Callable[[Section], None]] = {
    "device": device.describe,
    "kernels": kernels.check,
    "sampler": sampling.measure,
    "memory": device_memory.check,
}
ON_MODEL: dict[str, Callable[[Section, Subject], None]] = {
    "correctness": correctness.check,
    "passes": passes.measure_decode,
    "prefill": passes.measure_prefill,
    "batches": batches.measure,
    "longest": longest.measure,
}


def run(request: bytes, output: BinaryIO) -> None:
    """Run the sections that `request` names, a `SelftestRequest`."""

    def send(message: SelftestMessage) -> None:
        output.write(msgspec.json.encode(message) + b"\n")
        output.flush()

    prepare_device()
    run_sections(msgspec.json.decode(request, type=SelftestRequest), send)


def run_sections(request: SelftestRequest, send: Send) -> None:
    """Run the sections in their order; one that fails does not end the others."""
    subjects = Subjects(request)
    for name, budget_s in request.budgets_s.items():
        started = time.perf_counter()
        send(SectionStarted(name, budget_s))
        for figure in run_section(name, budget_s, subjects, send):
            send(figure)
        send(SectionEnded(name, time.perf_counter() - started))


def run_section(name: str, budget_s: float, subjects: Subjects, send: Send) -> Iterator[Figure]:
    """Run one section, on each model if it is about models; yields why a part has failed."""
    for model, part in parts_of(name, budget_s, subjects, send):
        try:
            part()
        except Exception as error:
            logger.exception("the section %s failed", name)
            note = f"{type(error).__name__}: {error}"
            yield Figure(section=name, name=FAILURE, model=model, verdict="failed", note=note)


def parts_of(
    name: str, budget_s: float, subjects: Subjects, send: Send
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The parts of a section, each with the model that it is about."""
    if name not in MODEL_SECTIONS:
        yield "", lambda: ON_DEVICE[name](Section(name, budget_s, send))
    if name not in MODEL_SECTIONS and name != "device":
        return
    for model in subjects.names:
        # The load is not part of a section's time.
        yield model, lambda model=model: run_on(name, budget_s, subjects[model], send)  # type: ignore[misc]


def run_on(name: str, budget_s: float, subject: Subject, send: Send) -> None:
    """Run a section on one model."""
    section = Section(name, budget_s, send, model=subject.name)
    if name == "device":
        device.describe_model(section, subject)
    else:
        ON_MODEL[name](section, subject)


class Subjects:
    """The models of the selftest by name, each loaded when it is first used."""

    def __init__(self, request: SelftestRequest) -> None:
        self._sources = {BUILT_IN: ModelSource(BUILT_IN, None)}
        if request.source is not None:
            self._sources[GIVEN] = ModelSource(GIVEN, request.source, revision=request.revision)
        self._loaded: dict[str, Subject] = {}

    @property
    def names(self) -> list[str]:
        """The built-in model first."""
        return list(self._sources)

    def __getitem__(self, name: str) -> Subject:
        if name not in self._loaded:
            self._loaded[name] = load_subject(self._sources[name])
        return self._loaded[name]
