"""Rank 0's side of a group: what makes the parts of its models, and what its end means."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec

from protocol.messages import Configure
from protocol.ranks import RankGroup
from worker.cache.disk_store import DiskStore
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.models.weight_loader import ModelParts
from worker.ranks.frames import BadFrame, Frames
from worker.ranks.leading import LeadingCache, LeadingEngine
from worker.ranks.meeting import accept_ranks, make_ring
from worker.ranks.plan import BuildModel, Failed, Prepare, ReadWeights, decode_answer
from worker.ranks.recorder import Recorder
from worker.ranks.sharding import build_part


class Leader:
    """Rank 0 of a group.

    `on_met` is called with the other ranks that have come so far, and whether the group is made;
    `on_lost` with a rank that has ended, or is silent for `silence_s`, and the reason.

    Raises:
        MeetingFailed: the ranks cannot work together.
        RuntimeError: the ring cannot be made.
    """

    def __init__(
        self,
        group: RankGroup,
        silence_s: float,
        on_met: Callable[[list[int], bool], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        self._on_lost = on_lost
        self._ranks = accept_ranks(group, silence_s, lambda ranks: on_met(ranks, False))
        self._is_closing = False
        self._group = make_ring(group, silence_s)
        for rank, frames in self._ranks.items():
            frames.start_heartbeats(silence_s)
            watch = partial(self._watch, rank, frames)
            threading.Thread(target=watch, name=f"rank-{rank}-watch", daemon=True).start()
        self._recorder = Recorder(self._ranks)
        on_met(sorted(self._ranks), True)

    def prepare(self, configure: Configure) -> None:
        """Send the limits of the device's memory."""
        limits = configure.memory_limit_bytes, configure.cache_limit_bytes
        self._recorder.add(Prepare(*limits))
        self._recorder.send()

    @property
    def parts(self) -> ModelParts:
        """What makes the parts of a model that each rank has one of."""
        return ModelParts(
            build=self._build,
            read=self._read,
            make_engine=self._make_engine,
            make_cache=self._make_cache,
            shares=self._group.size(),
        )

    def send_freed(self) -> None:
        """Let the other ranks free the models that this one has unloaded."""
        self._recorder.send_freed()

    def close(self) -> None:
        """Let the other ranks end."""
        self._is_closing = True
        for frames in self._ranks.values():
            frames.close()

    def _watch(self, rank: int, frames: Frames) -> None:
        """Wait for the end of another rank."""
        try:
            answer = decode_answer(frames.receive())
            reason = answer.reason if isinstance(answer, Failed) else "it has sent a second hello"
        except EOFError:
            reason = "it has ended"
        except (OSError, BadFrame, msgspec.MsgspecError) as error:
            reason = str(error)
        if not self._is_closing:
            self._on_lost(rank, reason)

    def _build(self, path: Path, *, trusted: bool) -> nn.Module:
        model = build_part(path, self._group, trusted=trusted)
        number = self._recorder.register("model", model)
        self._recorder.add(BuildModel(number, str(path), trusted))
        self._recorder.send_freed()
        return model

    def _read(self, model: nn.Module, weights: list[mx.array]) -> None:
        self._recorder.add(ReadWeights(self._recorder.number_of(model)))
        self._recorder.send()
        mx.eval(weights)

    def _make_engine(self, model: nn.Module, **settings: Any) -> Engine:
        return LeadingEngine(model, recorder=self._recorder, **settings)

    def _make_cache(self, limit_bytes: int, disk_store: DiskStore | None) -> PrefixCache:
        assert disk_store is None
        return LeadingCache(limit_bytes, self._recorder)
