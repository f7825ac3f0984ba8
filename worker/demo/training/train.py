"""Train the demo model again: corpus, tokenizer and weights from a seed.

    python -m worker.demo.training.train

Training uses PyTorch on the CPU, where it is several times as fast as MLX; install it
with the extra `train`. A stopped run continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from worker.demo import demo_model_path
from worker.demo.training import tokenizer as vocabulary
from worker.demo.training.corpus import mixture
from worker.demo.training.corpus.document import Chat

try:
    import torch
    from safetensors.torch import save_file
    from torch import Tensor
    from torch.nn import functional
except ImportError as error:
    raise SystemExit("training needs PyTorch: install mlxd with the extra `train`") from error

from worker.demo.training import batches
from worker.demo.training.muon import Muon
from worker.demo.training.network import Llama, Shape

SEED = 20261122
STEPS = 3280
WARM_UP_STEPS = 60
# Points of the rate schedule: the step of `STEPS` and the rate, interpolated linearly.
RATES = ((1600, 1.0), (1840, 0.9), (2160, 0.55), (2720, 0.3), (3200, 0.16), (3280, 0.0))
MATRIX_RATE = 6e-3
OTHER_RATE = 4e-3
WEIGHT_DECAY = 0.02
GRADIENT_NORM = 1.0
THREADS = 2  # one for each batch of a step; a busy machine slows them down little
CHECKPOINT_S = 90.0
REPORT_STEPS = 20
EVALUATE_STEPS = 200
HELD_OUT_PER_KIND = 24


@dataclass
class Progress:
    """The state of the run, without the network and its optimisers."""

    step: int = 0
    shard: int = 0
    offset: int = 0
    tokens: int = 0
    seconds: float = 0.0


class BatchGradients(NamedTuple):
    """The loss and the gradients of one batch of a step."""

    loss: float
    gradients: tuple[Tensor, ...]


class Trainer:
    """The network, its two optimisers and the progress through the corpus."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self._tokenizer, self._seed, self._steps = tokenizer, seed, steps
        self.shape = Shape(vocab_size=len(tokenizer))
        self.network = Llama(self.shape)
        named = dict(self.network.named_parameters())
        matrices = [p for n, p in named.items() if "_proj" in n]
        others = [p for n, p in named.items() if "_proj" not in n]
        self._muon = Muon(matrices)
        self._adam = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.progress = Progress()
        self._parameters = list(self.network.parameters())
        self._threads = ThreadPoolExecutor(THREADS)

    def steps(self) -> Iterator[list[batches.Batch]]:
        """The remaining steps, in order."""
        while True:
            steps = batches.steps(self._tokenizer, self._seed, self.progress.shard)
            for step in steps[self.progress.offset :]:
                if self.progress.step >= self._steps:
                    return
                self.progress.offset += 1
                yield step
            self.progress.shard, self.progress.offset = self.progress.shard + 1, 0

    def learn(self, step: list[batches.Batch]) -> float:
        """One optimiser step over all batches; the mean loss of the targets."""
        started_at = time.monotonic()
        total = sum(len(batch.targets) for batch in step)
        parts = list(self._threads.map(lambda batch: self._gradients(batch, total), step))
        columns = zip(*(part.gradients for part in parts), strict=True)
        for parameter, gradients in zip(self._parameters, columns, strict=True):
            parameter.grad = torch.stack(gradients).sum(0)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self._update()
        self.progress.step += 1
        self.progress.tokens += sum(batch.tokens for batch in step)
        self.progress.seconds += time.monotonic() - started_at
        return sum(part.loss for part in parts)

    def _gradients(self, batch: batches.Batch, total: float) -> BatchGradients:
        loss = self._loss(batch) / total
        return BatchGradients(loss.item(), torch.autograd.grad(loss, self._parameters))

    def _loss(self, batch: batches.Batch) -> Tensor:
        logits = self.network(batch.inputs, batch.positions)
        return functional.cross_entropy(logits, batch.targets, reduction="sum")

    def _update(self) -> None:
        scale = rate_scale(self.progress.step, self._steps)
        self._muon.step(MATRIX_RATE * scale, WEIGHT_DECAY)
        for group in self._adam.param_groups:
            group["lr"] = OTHER_RATE * scale
        self._adam.step()
        self._adam.zero_grad()

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "network": self.network.state_dict(),
            "muon": self._muon.state(),
            "adam": self._adam.state_dict(),
            "progress": vars(self.progress),
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def restore(self, path: Path) -> None:
        """Load a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self._muon.restore(state["muon"])
        self._adam.load_state_dict(state["adam"])
        self.progress = Progress(**state["progress"])


def rate_scale(step: int, steps: int) -> float:
    """The factor of the learning rates: warm-up, constant, then a decrease to zero."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    points, rates = zip(*RATES, strict=True)
    return float(np.interp(step * STEPS / steps, list(points), list(rates)))


def held_out_rates(
    network: Llama, tokenizer: PreTrainedTokenizerFast, seed: int
) -> dict[str, float]:
    """For each kind, the share of held-out chats whose last turn is predicted exactly."""
    right: dict[str, list[bool]] = defaultdict(list)
    documents = mixture.held_out(seed, HELD_OUT_PER_KIND)
    chats = [document for document in documents if isinstance(document, Chat)]
    for sample in batches.encode(tokenizer, chats):
        right[sample.kind].append(is_predicted(network, sample))
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


def is_predicted(network: Llama, sample: batches.Sample) -> bool:
    """Whether each token of the last turn is the most likely one after those before it."""
    ids = torch.tensor([sample.ids])
    start = max(n for n, in_answer in enumerate(sample.in_answer) if not in_answer)
    with torch.no_grad():
        guesses = network(ids, torch.arange(start, len(sample.ids) - 1)).argmax(-1)
    return bool((guesses == ids[0, start + 1 :]).all())


def export(trainer: Trainer, folder: Path) -> None:
    """Write the weights and configs in mlx-lm's format.

    Values are rounded to bfloat16 and stored as float32: the zero halves compress
    well in the wheel, and the CPU decodes float32 fastest.
    """
    weights = {
        name: tensor.bfloat16().float().contiguous()
        for name, tensor in trainer.network.state_dict().items()
    }
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)
    tokenizer = vocabulary.load(folder)
    begin, turn, text = tokenizer.convert_tokens_to_ids(
        [vocabulary.BEGIN_TEXT, vocabulary.END_TURN, vocabulary.END_TEXT]
    )
    special = {"bos_token_id": begin, "eos_token_id": [turn, text]}
    _write_json(folder / "config.json", trainer.shape.config() | special)
    _write_json(folder / "generation_config.json", special | {"do_sample": False})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks: page faults of large tensors take half of the time."""
    if platform.system() == "Linux":
        libc = ctypes.CDLL(None)
        for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            libc.mallopt(option, value)  # arenas, mmapped blocks, trim threshold, top padding


def run(trainer: Trainer, arguments: argparse.Namespace, checkpoint: Path) -> None:
    """Run the remaining steps; report, evaluate and save at intervals."""
    saved_at = time.monotonic()
    tokenizer, recent = vocabulary.load(arguments.out), 0.0
    for step in trainer.steps():
        loss = trainer.learn(step)
        recent = loss if recent == 0.0 else 0.95 * recent + 0.05 * loss
        progress = trainer.progress
        if progress.step % REPORT_STEPS == 0:
            report(progress, arguments.steps, recent)
        if progress.step % EVALUATE_STEPS == 0:
            rates = held_out_rates(trainer.network, tokenizer, arguments.seed)
            parts = (f"{kind} {rate:.0%}" for kind, rate in rates.items())
            write_line(f"held out: {', '.join(parts)}")
        if time.monotonic() - saved_at > CHECKPOINT_S:
            trainer.save(checkpoint)
            saved_at = time.monotonic()
    trainer.save(checkpoint)


def report(progress: Progress, steps: int, loss: float) -> None:
    """Write the progress: over the last line on a terminal, as a new line to a file."""
    speed = progress.tokens / progress.seconds
    left_min = (steps - progress.step) * progress.seconds / progress.step / 60
    done = int(20 * progress.step / steps)
    bar = "#" * done + "." * (20 - done)
    line = (
        f"[{bar}] step {progress.step}/{steps}  loss {loss:.4f}"
        f"  {progress.tokens / 1e6:.2f} M tokens  {speed:.0f} tokens/s  {left_min:.0f} min left"
    )
    write_line(line, end="\r" if sys.stdout.isatty() else "\n")


def write_line(line: str, end: str = "\n") -> None:
    """Write and flush a line."""
    sys.stdout.write(line + end)
    sys.stdout.flush()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m worker.demo.training.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, default=SEED, help="of corpus, order and weights")
    parser.add_argument("--steps", type=int, default=STEPS, help="total optimiser steps")
    parser.add_argument("--out", type=Path, default=demo_model_path(), help="folder of the model")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("demo-training.pt"), help="written while training"
    )
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint")
    return parser.parse_args(arguments)


def main() -> None:
    """Train the tokenizer, then the model, and write the weights."""
    arguments = parse()
    keep_freed_memory()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    template = arguments.out / vocabulary.TEMPLATE_NAME
    if not template.exists():
        shutil.copy(demo_model_path() / vocabulary.TEMPLATE_NAME, template)
    resumes = arguments.checkpoint.exists() and not arguments.fresh
    if not resumes:
        vocabulary.save(vocabulary.train(arguments.seed), arguments.out)
    tokenizer = vocabulary.load(arguments.out)
    trainer = Trainer(tokenizer, arguments.seed, arguments.steps)
    if resumes:
        trainer.restore(arguments.checkpoint)
        write_line(f"continuing from step {trainer.progress.step} of {arguments.checkpoint}")
    run(trainer, arguments, arguments.checkpoint)
    export(trainer, arguments.out)
    minutes = trainer.progress.seconds / 60
    write_line(f"\ntrained {trainer.progress.tokens / 1e6:.1f} M tokens in {minutes:.0f} min")


if __name__ == "__main__":
    main()
