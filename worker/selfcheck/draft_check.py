"""Whether a pass over several places of a row gives what passes over one place each give.

Two rows of unlike lengths answer by themselves; then the same rows are drafted, one right and one
with wrong tokens. Behind that passes of other sizes are compared (pass_sizes.py). Where they round
otherwise an answer would have other tokens with drafts.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import msgspec

from protocol.batching import BatchRules, SpeculationMode
from worker.drafts.drafter import Drafter
from worker.engine.batches.speculation.draft_plan import MAX_DRAFT_TOKENS
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine, Token
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import Score
from worker.selfcheck.pass_sizes import MOST_PLACES, NEAR_TOKENS, check_sizes, choose_sizes
from worker.selfcheck.samples import make_tokens
from worker.selfcheck.scored_rows import GREEDY, TOP_COUNT, largest_difference

logger = logging.getLogger(__name__)

# Rounding of float32. That of shorter numbers changes tokens.
BOUND = 1e-3
ANSWER_TOKENS = MAX_DRAFT_TOKENS + 2
# The prompts of the rows that answer.
LENGTHS = (40, 29)
OTHER_CACHES = "not all of its caches are of plain attention"
ROWS_ALONE = "its rows are decoded alone"

Answers = list[list[Token]]


class FreePlaces(PassCosts):
    """Costs by which every draft pays."""

    def relative(self, rows: int, places: int) -> float:
        """A pass of any size costs as good as nothing."""
        return 1e-9


def checking_speculation() -> Speculation:
    """The speculation of an engine that checks a model."""
    return Speculation(FreePlaces())


@dataclass(frozen=True, slots=True)
class DraftCheck:
    """The check of whether drafts change an answer of a model with this context."""

    vocabulary_size: int
    context_tokens: int | None = None

    def find_fault(self, engine: Engine) -> Generator[None, None, str]:
        """Why no drafts are verified, by what rows may share; empty if they are."""
        if not engine.is_trimmable:
            return OTHER_CACHES
        if engine.rules.batching == "none":
            return ROWS_ALONE
        prompts = [make_tokens(n, count, self.vocabulary_size) for n, count in enumerate(LENGTHS)]
        if fault := (yield from check_answers(engine, prompts)):
            return fault
        if not engine.computes_alone:
            logger.info("passes of other sizes are not compared on several ranks")
            return ""
        tokens = make_tokens(0, NEAR_TOKENS + MOST_PLACES, self.vocabulary_size)
        sizes = choose_sizes(engine.kv_cost, self.context_tokens)
        prompt, behind = tokens[:NEAR_TOKENS], tokens[NEAR_TOKENS:]
        return (yield from check_sizes(engine, prompt, behind, BOUND, sizes))


def check_answers(engine: Engine, prompts: Sequence[list[int]]) -> Generator[None, None, str]:
    """How answers differ with drafts; empty if they do not."""
    plain: Answers = yield from answer(engine, prompts, [[] for _ in prompts])
    expected = [[token.token for token in row] for row in plain]
    # The last row's draft is wrong in the middle.
    predictions = [list(tokens) for tokens in expected]
    predictions[-1][ANSWER_TOKENS // 2] ^= 1
    drafted: Answers = yield from answer(engine, prompts, predictions)
    if not any(token.drafted.accepted for row in drafted for token in row):
        return "no draft could be verified"
    if [[token.token for token in row] for row in drafted] != expected:
        return "with drafts an answer has other tokens"
    difference = max(map(largest_difference, map(scores_of, plain), map(scores_of, drafted)))
    if difference > BOUND:
        return (
            f"a pass over several places rounds otherwise: log-probabilities differ by "
            f"{difference:.2g} (at most {BOUND:g} is allowed)"
        )
    return ""


def apply_speculation(rules: BatchRules, mode: SpeculationMode) -> BatchRules:
    """The rules with what the setting says of drafts."""
    if mode == "on" and rules.undrafted not in (OTHER_CACHES, ROWS_ALONE):
        return msgspec.structs.replace(rules, verifies_drafts=True, undrafted="")
    return rules


def answer(
    engine: Engine, prompts: Sequence[list[int]], predictions: Sequence[list[int]]
) -> Generator[None, None, Answers]:
    """The answers to these prompts together; nothing is drafted without predictions."""
    answers: Answers = [[] for _ in prompts]
    for id, (prompt, prediction) in enumerate(zip(prompts, predictions, strict=True)):
        drafter = Drafter(prompt, (), prediction) if prediction else None
        row = make_row(GREEDY, logprobs=TOP_COUNT, drafter=drafter)
        engine.insert(id, prompt, ANSWER_TOKENS, row)
    while len(engine):
        for token in engine.step():
            answers[token.id].append(token)
        if failed := engine.take_failed():
            engine.remove(range(len(prompts)))
            raise failed[0].error
        yield
    return answers


def scores_of(tokens: Sequence[Token]) -> list[Score]:
    """The scores of an answer's tokens."""
    return [token.score for token in tokens if token.score is not None]
