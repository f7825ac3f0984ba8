"""The drafts of one answer: from the request's prediction, or from what the text repeats.

Every token of the answer shows whether a draft would have been right, drafted or not. So the share
of right ones is known without a pass of the model, and an answer that repeats nothing is not
drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.drafts.edit_lookup import EditLookup
from worker.drafts.source import DraftOrigin, DraftSource
from worker.drafts.token_lookup import TokenLookup
from worker.drafts.trial_rate import TrialRate

# The expected shares of right tokens, by the bit length of how many tokens before agree.
TEXT_RATES = (0.0, 0.0, 0.4, 0.6, 0.8, 0.9, 0.95)
PREDICTION_RATES = (0.0, 0.8, 0.8, 0.85, 0.9, 0.95, 0.97)
# How many tokens the expected share counts for, and how fast older tokens lose their weight.
PRIOR_TOKENS = 4.0
KEPT_SHARE = 0.95
# More tokens since the last draft are entered without a look at what was expected of each.
MAX_FOLLOWED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and how likely each is right if those before it are."""

    tokens: Sequence[int] = ()
    rates: Sequence[float] = ()
    origin: DraftOrigin = "text"

    def cut(self, count: int) -> Draft:
        """At most the first `count` of them."""
        return Draft(self.tokens[:count], self.rates[:count], self.origin)


NO_DRAFT = Draft()


class HitRates:
    """The share of right tokens of one source, by how many tokens before agree."""

    def __init__(self, expected: Sequence[float]) -> None:
        self._expected = expected
        self._tried = [PRIOR_TOKENS] * len(expected)
        self._right = [rate * PRIOR_TOKENS for rate in expected]

    def count(self, matched: int, right: bool) -> None:
        """Count a token that was proposed after `matched` tokens that agreed."""
        level = self._level(matched)
        self._tried[level] = self._tried[level] * KEPT_SHARE + 1.0
        self._right[level] = self._right[level] * KEPT_SHARE + right

    def rate(self, matched: int) -> float:
        """How likely the next token is right after `matched` tokens that agreed."""
        level = self._level(matched)
        return self._right[level] / self._tried[level]

    def _level(self, matched: int) -> int:
        return min(matched.bit_length(), len(self._expected) - 1)


class Drafter:
    """Drafts of one answer behind `prompt`, of which `resume` are the tokens so far.

    Its text is entered when a draft is asked for, on the device's thread.
    """

    def __init__(
        self, prompt: Sequence[int], resume: Sequence[int] = (), prediction: Sequence[int] = ()
    ) -> None:
        self.known_tokens = len(resume)
        self._prompt = prompt
        self._prediction = prediction
        self._history: list[int] = []
        # The tokens of the answer that are not entered yet.
        self._learned = list(resume)
        self._sources: list[tuple[DraftSource, HitRates, DraftOrigin]] | None = None
        # How often the drafts of another model were right.
        self.model_rate = TrialRate()

    def learn(self, index: int, token: int) -> None:
        """Take the answer's token of this index, unless it is known."""
        if index != self.known_tokens:
            return
        self._learned.append(token)
        self.known_tokens += 1

    def draft(self, count: int) -> Draft:
        """At most `count` tokens, from the source that is the most likely to be right."""
        best, best_rate = None, 0.0
        for source, rates, origin in self._open():
            rate = rates.rate(source.matched) if source.matched else 0.0
            if rate > best_rate:
                best, best_rate = (source, rates, origin), rate
        if best is None:
            return NO_DRAFT
        source, rates, origin = best
        tokens = source.propose(count)
        return Draft(tokens, [rates.rate(source.matched + n) for n in range(len(tokens))], origin)

    def read(self) -> Sequence[int]:
        """The tokens of the prompt and of the answer, as far as they are known."""
        self._open()
        return self._history

    def _open(self) -> list[tuple[DraftSource, HitRates, DraftOrigin]]:
        """The sources, which know all that was learned; the first wins where they are equal."""
        if self._sources is None:
            self._history += self._prompt
            self._sources = []
            if self._prediction:
                begun = TokenLookup(self._prediction, self._history, is_beginning=True)
                predicted = EditLookup(begun)
                self._sources.append((predicted, HitRates(PREDICTION_RATES), "prediction"))
            repeated = EditLookup(TokenLookup(self._history, self._history))
            self._sources.append((repeated, HitRates(TEXT_RATES), "text"))
        elif len(self._learned) > MAX_FOLLOWED_TOKENS:
            self._history += self._learned
            self._learned.clear()
            for source, _, _ in self._sources:
                source.skip()
        for token in self._learned:
            self._history.append(token)
            for source, rates, _ in self._sources:
                if source.matched:
                    rates.count(source.matched, source.propose(1) == [token])
                source.follow(token)
        self._learned.clear()
        return self._sources
