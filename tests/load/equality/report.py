"""What is reported: the shares of equal answers, and where an answer first differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from tests.load.equality.cases import Answer, Case

# In the names of the ways that use a cache.
FROM_CACHE = "from"


@dataclass(frozen=True)
class Difference:
    """The first token that differs: its place, both tokens, and their log-probabilities."""

    case: int
    greedy: bool
    place: int
    expected: str
    found: str
    expected_logprob: float
    found_logprob: float


@dataclass(frozen=True)
class Comparison:
    """Answers beside the expected ones. The log-probabilities are those of equal tokens."""

    requests: int
    greedy: int
    seeded: int
    differences: list[Difference]
    failed: list[str]
    with_cached_tokens: int
    largest_logprob_difference: float

    def __str__(self) -> str:
        unlike = [0, 0]
        for difference in self.differences:
            unlike[difference.greedy] += 1
        equal = self.greedy - unlike[True], self.seeded - unlike[False]
        return f"{equal[0]}/{self.greedy} {equal[1]}/{self.seeded}"


Shares = dict[tuple[str, str], dict[str, Comparison]]


def compare(
    cases: Sequence[Case], expected: Sequence[Answer], found: Sequence[Answer]
) -> Comparison:
    """Compare answers, token by token."""
    pairs = list(zip(cases, expected, found, strict=True))
    greedy = sum(case.seed is None for case in cases)
    differences = [first_difference(*pair) for pair in pairs]
    return Comparison(
        requests=len(cases),
        greedy=greedy,
        seeded=len(cases) - greedy,
        differences=[each for each in differences if each is not None],
        failed=[str(a.error) for _, *both in pairs for a in both if a.error is not None],
        with_cached_tokens=sum(answer.cached_tokens > 0 for answer in found),
        largest_logprob_difference=max(
            (
                abs(ours - theirs)
                for (_, right, answer), unlike in zip(pairs, differences, strict=True)
                for ours, theirs in zip(
                    answer.logprobs[: unlike.place if unlike else None],
                    right.logprobs,
                    strict=False,
                )
            ),
            default=0.0,
        ),
    )


def first_difference(case: Case, expected: Answer, found: Answer) -> Difference | None:
    """Where an answer first differs; a missing token is empty."""
    length = max(len(expected.tokens), len(found.tokens))
    for place in range(length):
        right, ours = (token_at(answer, place) for answer in (expected, found))
        if right[0] != ours[0]:
            return Difference(
                case=case.number,
                greedy=case.seed is None,
                place=place,
                expected=right[0],
                found=ours[0],
                expected_logprob=right[1],
                found_logprob=ours[1],
            )
    return None


def token_at(answer: Answer, place: int) -> tuple[str, float]:
    """A token as text, and its log-probability."""
    if place >= len(answer.tokens):
        return "", 0.0
    return repr(answer.tokens[place])[1:], answer.logprobs[place]


def shares_table(shares: Mapping[tuple[str, str], Mapping[str, Comparison]]) -> Table:
    """A row for each family and dtype."""
    ways = list(next(iter(shares.values())))
    table = Table(box=box.SIMPLE_HEAD, caption="equal of all: greedy, then with a seed")
    for name in ("family", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in (*ways, "largest difference"):
        table.add_column(name)
    for (family, dtype), of_family in shares.items():
        largest = max(one.largest_logprob_difference for one in of_family.values())
        table.add_row(family, dtype, *(str(of_family[way]) for way in ways), f"{largest:.1e}")
    return table


def differences_of(shares: Mapping[tuple[str, str], Mapping[str, Comparison]]) -> Iterator[str]:
    """A line for each answer that differs, or failed."""
    for (family, dtype), ways in shares.items():
        for way, one in ways.items():
            for each in one.differences:
                kind = "greedy" if each.greedy else "with a seed"
                yield (
                    f"{family}, {dtype}, {way}: case {each.case}, {kind}, token {each.place}: "
                    f"{each.found} ({each.found_logprob:.4f}) instead of {each.expected} "
                    f"({each.expected_logprob:.4f})"
                )
            for error in one.failed:
                yield f"{family}, {dtype}, {way}: failed: {error}"


def uncached_of(shares: Mapping[tuple[str, str], Mapping[str, Comparison]]) -> Iterator[str]:
    """A line for each way from a cache in which a prompt had no cached tokens."""
    for (family, dtype), ways in shares.items():
        for way, one in ways.items():
            if FROM_CACHE in way and one.with_cached_tokens < one.requests:
                held = f"{one.with_cached_tokens} of {one.requests}"
                yield f"{family}, {dtype}, {way}: only {held} prompts had cached tokens"
