"""`python -m tests.load.speculation [ROUNDS [TOKENS]]`: drafts against none, on SmolLM2 in float32.

Each round answers each task without drafts and with them, one row alone and four at once, in an
order that alternates; the story, which repeats nothing, has three times as many rounds. Printed are
the speed as a multiple of that without drafts, by processor time and by the clock, as medians of
the rounds with the lower bound of 90 % of their mean; the tokens of a row and pass beside its own;
and the share of the passes' time that verifies what is not kept, of each task and of all of them,
by the cost curve that is measured first. The answers are compared. As a worker has it, OpenBLAS is
to be preloaded (`LD_PRELOAD`): MLX's own product takes as long for each place as for a pass, so
that nothing is gained.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_lm.utils import load
from transformers import PreTrainedTokenizerBase

from protocol.batching import BatchRules
from protocol.messages import Sampling
from tests.models import smollm2
from worker.cache.prefix_cache import PrefixCache
from worker.drafts.drafter import Draft, Drafter
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Drafts, Speculation
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import Row, make_row
from worker.selfcheck.pass_timing import PassTiming

ROUNDS, TOKENS = 5, 64
STORY_ROUNDS = 3
# Student's t, one-sided 90 %, by degrees of freedom.
T_90 = {2: 1.886, 4: 1.533, 8: 1.397, 14: 1.345}
T_NORMAL = 1.282
WIDTHS = (1, 4)
GREEDY = Sampling(seed=0, temperature=0.0)
VOCABULARY = 49152

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
    Task(
        "replace",
        f"Rewrite this text with every `he` changed to `she`:\n\n{TEXT}",
        TEXT,
    ),
    Task("repeat", f"Repeat this text exactly, word for word:\n\n{TEXT}"),
    Task("extract", f"List the facts of this text as bullet points:\n\n{TEXT}"),
    Task("story", "Write a short story about a fox and a river."),
)


@dataclass
class Run:
    """What a round has taken; seconds are those of a token, by the clock and of the processor."""

    tokens: list[list[int]]
    seconds: float = 0.0
    processor_s: float = 0.0
    passes: int = 0
    accepted: int = 0
    rejected: int = 0
    # In passes of one place, by the curve.
    spent: float = 0.0
    wasted: float = 0.0


class CountingSpeculation(Speculation):
    """Reckons what its passes cost, and what of it is wasted."""

    def __init__(self, costs: PassCosts, curve: CostCurve) -> None:
        super().__init__(costs)
        self._curve = curve
        self._rows = self._places = 1
        self._accepted: list[int] = []
        self.spent = self.wasted = 0.0

    def plan(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        drafts = super().plan(rows, tokens_left, read)
        self._rows, self._accepted = len(rows), []
        self._places = 1 if drafts is None else drafts.places
        self.spent += self._curve.relative(self._rows, self._places)
        return drafts

    def count(self, row: Row, draft: Draft, accepted: int) -> None:
        super().count(row, draft, accepted)
        self._accepted.append(accepted)
        if len(self._accepted) < self._rows:
            return
        kept = 1 + round(statistics.mean(self._accepted))
        cost = self._curve.relative(self._rows, self._places)
        self.wasted += cost - self._curve.relative(self._rows, min(kept, self._places))


class Bench:
    """The model, and an engine with drafts and one without."""

    def __init__(self) -> None:
        model, self.tokenizer = load(str(smollm2.float32_path()))[:2]
        self.curve = CostCurve()
        limits = PrefillLimits(max_tokens=512)
        rules = BatchRules(verifies_drafts=True)
        timing = PassTiming(
            model, self.curve, vocabulary_size=VOCABULARY, limits=limits, rules=rules
        )
        while not timing.advance():
            pass
        self.speculation = CountingSpeculation(PassCosts(self.curve), self.curve)
        self.engines = {
            drafts: Engine(
                model,
                max_running=max(WIDTHS),
                prefill=limits,
                prompt_cache=PrefixCache(1 << 30),
                speculation=self.speculation if drafts else None,
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
        run = Run([[] for _ in range(rows)])
        while not all(run.tokens):
            self._step(engine, run)
        started_s, processor_s = time.perf_counter(), time.process_time()
        first = sum(map(len, run.tokens))
        run.passes = run.accepted = run.rejected = 0
        self.speculation.spent = self.speculation.wasted = 0.0
        while len(engine):
            self._step(engine, run)
        decoded = sum(map(len, run.tokens)) - first
        run.seconds = (time.perf_counter() - started_s) / decoded
        run.processor_s = (time.process_time() - processor_s) / decoded
        run.spent, run.wasted = self.speculation.spent, self.speculation.wasted
        return run

    def _step(self, engine: Engine, run: Run) -> None:
        tokens = engine.step()
        run.passes += len({token.id for token in tokens})
        for token in tokens:
            run.tokens[token.id].append(token.token)
            run.accepted += token.drafted.accepted
            run.rejected += token.drafted.rejected


def main() -> None:
    """Measure, and print a line for each task and number of rows."""
    words = [int(word) for word in sys.argv[1:]]
    rounds, count = (*words, *(ROUNDS, TOKENS)[len(words) :])
    bench = Bench()
    print("cost of 1 to 7 places, in passes of one:")
    for rows in (1, 2, 4, 8):
        print(rows, [round(bench.curve.relative(rows, n), 2) for n in range(1, 8)], flush=True)
    for rows in WIDTHS:
        spent = wasted = 0.0
        for task in TASKS:
            times = STORY_ROUNDS if task.name == "story" else 1
            drafted = report(bench, task, rows, rounds * times, count)
            # The story has more rounds, and counts as much as any other task.
            spent += statistics.mean(each.spent for each in drafted)
            wasted += statistics.mean(each.wasted for each in drafted)
        print(f"{rows} x all tasks: wasted {wasted / spent:.1%}", flush=True)


def report(bench: Bench, task: Task, rows: int, rounds: int, count: int) -> list[Run]:
    """Measure one task, and print its line; its runs with drafts."""
    pairs: list[tuple[Run, Run]] = []
    for number in range(rounds):
        order = (False, True) if number % 2 else (True, False)
        runs = {drafts: bench.run(task, rows, count, drafts=drafts) for drafts in order}
        pairs.append((runs[False], runs[True]))
    drafted = [each for _, each in pairs]
    equal = all(plain.tokens == each.tokens for plain, each in pairs)
    accepted = statistics.median(each.accepted / each.passes for each in drafted)
    places = sum(each.rejected for each in drafted) / sum(each.passes for each in drafted)
    wasted = sum(each.wasted for each in drafted) / sum(each.spent for each in drafted)
    print(
        f"{rows} x {task.name:8} "
        f"processor {describe([p.processor_s / d.processor_s for p, d in pairs])}, "
        f"clock {describe([p.seconds / d.seconds for p, d in pairs])}, accepted a pass "
        f"{accepted:.2f}, rejected {places:.2f}, wasted {wasted:.1%}, "
        f"answers {'equal' if equal else 'DIFFER'}",
        flush=True,
    )
    return drafted


def describe(ratios: list[float]) -> str:
    """The median, the range, and the lower bound of 90 % of the mean."""
    words = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}"
    if len(ratios) > 1:
        error = statistics.stdev(ratios) / len(ratios) ** 0.5
        bound = statistics.mean(ratios) - T_90.get(len(ratios) - 1, T_NORMAL) * error
        words += f", mean at least {bound:.2f}"
    return f"{words})"


if __name__ == "__main__":
    main()
