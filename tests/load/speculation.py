"""`python -m tests.load.speculation [ROUNDS [TOKENS]]`: drafts against none, on SmolLM2 in float32.

Each round answers each task without drafts and with them, one row alone and four at once, in an
order that alternates. Printed are the tokens of a row and pass, the share of passes' time that
verifies wrong tokens, and the speed as a multiple of that without drafts, as medians of the rounds.
The answers are compared. As a worker has it, OpenBLAS is to be preloaded (`LD_PRELOAD`): MLX's own
product takes as long for each place as for a pass, so that nothing is gained.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

from mlx_lm.utils import load
from transformers import PreTrainedTokenizerBase

from protocol.messages import Sampling
from tests.models import smollm2
from worker.drafts.drafter import Drafter
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row

ROUNDS, TOKENS = 5, 64
WIDTHS = (1, 4)
GREEDY = Sampling(seed=0, temperature=0.0)

CODE = """def total_price(items, tax):
    result = 0
    for item in items:
        result += item.price * item.count
    return result * (1 + tax)

def average_price(items):
    result = 0
    for item in items:
        result += item.price
    return result / len(items)
"""
TEXT = (
    "The lighthouse keeper wrote in his log that the storm had passed before midnight, and that "
    "three boats had come back to the harbour with torn sails but with all of their crew. He had "
    "counted the lamps twice, trimmed the wicks, and gone to bed at two in the morning."
)


@dataclass(frozen=True)
class Task:
    """What is asked, and the prediction of the answer."""

    name: str
    question: str
    prediction: str = ""


TASKS = (
    Task(
        "edit",
        "Rewrite this code with the variable `result` renamed to `amount`. "
        f"Answer with the code only.\n\n{CODE}",
        CODE,
    ),
    Task("repeat", f"Repeat this text exactly, word for word:\n\n{TEXT}"),
    Task("extract", f"List the facts of this text as bullet points:\n\n{TEXT}"),
    Task("story", "Write a short story about a fox and a river."),
)


@dataclass
class Run:
    """What a round has taken; `costs` are the passes' in passes of one place."""

    tokens: list[list[int]]
    seconds: float
    passes: int
    accepted: int
    rejected: int


class Bench:
    """The model, and an engine with drafts and one without."""

    def __init__(self) -> None:
        model, self.tokenizer = load(str(smollm2.float32_path()))[:2]
        self.costs = PassCosts()
        limits = PrefillLimits(max_tokens=512)
        self.engines = {
            drafts: Engine(
                model,
                max_running=max(WIDTHS),
                prefill=limits,
                speculation=Speculation(self.costs) if drafts else None,
            )
            for drafts in (False, True)
        }

    def run(self, task: Task, rows: int, count: int, *, drafts: bool) -> Run:
        """Answer the task in this many rows at once."""
        tokenizer: PreTrainedTokenizerBase = self.tokenizer
        engine = self.engines[drafts]
        predicted = tokenizer.encode(task.prediction, add_special_tokens=False)
        for id in range(rows):
            # Rows of unlike lengths, which draft at unlike times.
            question = f"{'Please. ' * id}{task.question}"
            chat = [{"role": "user", "content": question}]
            prompt: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
            row = make_row(GREEDY, prompt=prompt, drafter=Drafter(prompt, (), predicted))
            engine.insert(id, prompt, count, row)
        run = Run([[] for _ in range(rows)], 0.0, 0, 0, 0)
        while not all(run.tokens):
            self._step(engine, run)
        started_at, first = time.perf_counter(), sum(map(len, run.tokens))
        run.passes = run.accepted = run.rejected = 0
        while len(engine):
            self._step(engine, run)
        run.seconds = (time.perf_counter() - started_at) / (sum(map(len, run.tokens)) - first)
        return run

    def _step(self, engine: Engine, run: Run) -> None:
        tokens = engine.step()
        run.passes += len({token.id for token in tokens})
        for token in tokens:
            run.tokens[token.id].append(token.token)
            run.accepted += token.accepted
            run.rejected += token.rejected


def main() -> None:
    """Measure, and print a line for each task and number of rows."""
    words = [int(word) for word in sys.argv[1:]]
    rounds, count = (*words, *(ROUNDS, TOKENS)[len(words) :])
    bench = Bench()
    for rows in WIDTHS:
        for task in TASKS:
            report(bench, task, rows, rounds, count)
    print("cost of places, in passes of one:")
    for rows in WIDTHS:
        print(rows, [round(bench.costs.relative(rows, n), 2) for n in range(1, 8)])


def report(bench: Bench, task: Task, rows: int, rounds: int, count: int) -> None:
    """Measure one task, and print its line."""
    ratios, accepted, rejected, equal = [], [], [], True
    for number in range(rounds):
        order = (False, True) if number % 2 else (True, False)
        runs = {drafts: bench.run(task, rows, count, drafts=drafts) for drafts in order}
        ratios.append(runs[False].seconds / runs[True].seconds)
        accepted.append(runs[True].accepted / runs[True].passes)
        rejected.append(runs[True].rejected / runs[True].passes)
        equal = equal and runs[False].tokens == runs[True].tokens
    print(
        f"{rows} x {task.name:8} speed {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), accepted a pass "
        f"{statistics.median(accepted):.2f}, rejected {statistics.median(rejected):.2f}, "
        f"answers {'equal' if equal else 'DIFFER'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
