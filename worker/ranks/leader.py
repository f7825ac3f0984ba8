"""Rank 0's side of a group: what makes the parts of its models, and what its end means."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec

from protocol.messages import Configure
from protocol.ranks import RankGroup, SplitSetting
from worker.cache.disk_store import DiskStore
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.memory.budget import UNLIMITED, own_weight_bytes_of
from worker.models.model_config import ModelConfig
from worker.models.weight_loader import ModelParts
from worker.ranks.joining.backends import make_group
from worker.ranks.joining.contents import read_contents, source_elsewhere
from worker.ranks.joining.frames import BadFrame, Frames
from worker.ranks.joining.meeting import accept_ranks, hold_ports, make_hello
from worker.ranks.leading import LeadingCache, LeadingEngine
from worker.ranks.parts.choice import build_part, split_of
from worker.ranks.plan import (
    BuildModel,
    Compared,
    CompareFiles,
    ModelFiles,
    Prepare,
    ReadWeights,
    decode_answer,
)
from worker.ranks.recorder import Recorder

logger = logging.getLogger(__name__)


class FilesDiffer(ValueError):
    """A model's files on another host are not those of this one; the message says which."""


class Leader:
    """Rank 0 of a group.

    `on_met` is called with the other ranks that have come so far, and whether the group is made;
    `on_lost` with a rank that has ended, or is silent for `silence_s`, the reason, and which.

    `budget_bytes` is what models may use in this process.

    Raises:
        MeetingFailed: the ranks cannot work together.
        RuntimeError: MLX's group cannot be made.
    """

    def __init__(
        self,
        group: RankGroup,
        silence_s: float,
        on_met: Callable[[list[int], bool], None],
        on_lost: Callable[[int, str, bool], None],
        *,
        budget_bytes: int = UNLIMITED.limit,
    ) -> None:
        self._on_lost = on_lost
        self._ranks_of = group
        ports = hold_ports(group)
        try:
            own = make_hello(group, ports, budget_bytes)
            self._ranks, welcome, self._hellos = accept_ranks(
                group, own, silence_s, lambda ranks: on_met(ranks, False)
            )
            self._is_closing = False
            self._group = make_group(group, welcome)
        finally:
            ports.close()
        self._answers: dict[int, queue.SimpleQueue[Compared]] = {}
        for rank, frames in self._ranks.items():
            self._answers[rank] = queue.SimpleQueue()
            frames.start_heartbeats(silence_s)
            watch = partial(self._watch, rank, frames)
            threading.Thread(target=watch, name=f"rank-{rank}-watch", daemon=True).start()
        self._recorder = Recorder(self._ranks, group)
        self._setting: SplitSetting = "auto"
        # Of each model that is read: the bytes that are, and all.
        self._read_bytes: dict[int, tuple[int, int]] = {}
        on_met(sorted(self._ranks), True)

    def prepare(self, configure: Configure) -> None:
        """Send the limits of the device's memory: those of a host, which its ranks share."""
        self._setting = configure.ranks_split
        limits = configure.memory_limit_bytes, configure.cache_limit_bytes
        self._recorder.add(Prepare(*(limit * self._ranks_of.shares for limit in limits)))
        self._recorder.send()

    @property
    def budget_bytes(self) -> int:
        """The least memory that a rank has for models: each computes its part of every model."""
        return min(hello.budget_bytes for hello in self._hellos)

    @property
    def parts(self) -> ModelParts:
        """What makes the parts of a model that each rank has one of."""
        return ModelParts(
            build=self._build,
            read=self._read,
            make_engine=self._make_engine,
            make_cache=self._make_cache,
            split_of=split_of,
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
        """Queue the answers of another rank, and wait for its end."""
        silent = False
        try:
            while isinstance(answer := decode_answer(frames.receive()), Compared):
                self._answers[rank].put(answer)
            reason = answer.reason
        except EOFError:
            reason = "it has ended"
        except (OSError, BadFrame, msgspec.MsgspecError) as error:
            reason, silent = str(error), isinstance(error, TimeoutError)
        if not self._is_closing:
            self._on_lost(rank, self._ranks_of.with_host(rank, reason), silent)

    def _build(self, config: ModelConfig) -> nn.Module:
        source, trusted = config.source, config.source.trust_remote_code
        files = ModelFiles(source_elsewhere(source.source, config.path), source.revision)
        if self._ranks_of.has_other_hosts:
            self._compare(files, config.path)
        part = build_part(config.path, self._group, trusted=trusted, setting=self._setting)
        number = self._recorder.register("model", part.model)
        self._recorder.add(BuildModel(number, files, trusted, part.split))
        self._recorder.send_freed()
        self._read_bytes[number] = 0, own_weight_bytes_of(part.model)
        logger.info("%s is %s-parallel over %d ranks", config.id, part.split, self._group.size())
        return part.model

    def _compare(self, files: ModelFiles, path: Path) -> None:
        """Let all ranks compare their files of a model with those of this one, in this folder.

        Raises:
            FilesDiffer: those of a rank are others.
        """
        self._recorder.add(CompareFiles(files, read_contents(path)))
        self._recorder.send_freed()
        # A rank that is lost ends this process.
        answers = {rank: answers.get() for rank, answers in self._answers.items()}
        for rank, answer in answers.items():
            if answer.difference is not None:
                raise FilesDiffer(f"{self._ranks_of.name_of(rank)}: {answer.difference}")

    def _read(self, model: nn.Module, weights: list[mx.array]) -> None:
        number = self._recorder.number_of(model)
        read_bytes, all_bytes = self._read_bytes.pop(number, (1, 1))
        read_bytes += sum(array.nbytes for array in weights)
        if read_bytes < all_bytes:
            self._read_bytes[number] = read_bytes, all_bytes
        self._recorder.add(ReadWeights(number, read_bytes / all_bytes))
        self._recorder.send()
        mx.eval(weights)

    def _make_engine(self, model: nn.Module, **settings: Any) -> Engine:
        return LeadingEngine(model, recorder=self._recorder, **settings)

    def _make_cache(self, limit_bytes: int, disk_store: DiskStore | None) -> PrefixCache:
        assert disk_store is None
        return LeadingCache(limit_bytes, self._recorder)
