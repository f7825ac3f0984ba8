"""What a prompt has in common with the closest known one, within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.cache.known_prompts import CHUNK_TOKENS, HEAD_TOKENS, Closest, KnownPrompts

token_lists = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def common(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


# Of about as many tokens as are compared at once.
beginnings = st.integers(HEAD_TOKENS - 13, HEAD_TOKENS + 1).map(lambda count: [7] * count)


@given(st.lists(token_lists, max_size=8), token_lists, st.just([]) | beginnings)
def test_the_closest_is_that_of_all_known_prompts(
    known: list[list[int]], asked: list[int], beginning: list[int]
) -> None:
    known, asked = [beginning + tokens for tokens in known], beginning + asked
    prompts = KnownPrompts()
    # One that is replaced leaves its place to others.
    known = [[*beginning, 9], [*beginning, 9, 9], *known]
    for tokens in known:
        prompts.note(tokens)
    longest = max((common(tokens, asked) for tokens in known), default=0)
    goes_on = any(common(tokens, asked) == longest < len(tokens) for tokens in known)
    expected = Closest(longest, differs=goes_on and longest < len(asked))
    assert prompts.note(asked).closest == expected
    assert prompts.note(asked).closest == Closest(len(asked))


def test_a_prompt_replaces_the_one_that_it_goes_on_from() -> None:
    prompts = KnownPrompts()
    for length in range(1, 50):
        prompts.note(list(range(length)))
    assert len(prompts) == 1


def test_places_beyond_a_chunk_are_exact() -> None:
    prompts = KnownPrompts()
    tokens = list(range(2 * CHUNK_TOKENS + 5))
    prompts.note(tokens)
    for place in (CHUNK_TOKENS - 1, CHUNK_TOKENS, 2 * CHUNK_TOKENS + 4):
        changed = [*tokens[:place], -1, *tokens[place + 1 :]]
        assert prompts.note(changed).closest == Closest(place, differs=True)


def test_the_prompts_used_last_are_kept_within_the_bounds() -> None:
    prompts = KnownPrompts(max_tokens=30, max_prompts=3)
    for first in range(5):
        prompts.note([first] * 8)
    assert len(prompts) == 3
    assert prompts.note([0, 9]).closest.tokens == 0
    prompts.note([7] * 100)
    assert prompts.note([7] * 40).closest == Closest(30)
    assert len(prompts) == 1


def test_an_answer_belongs_to_its_prompt() -> None:
    prompts = KnownPrompts()
    prompts.note([1, 2, 3])
    prompts.note_answer([1, 2, 3, 4, 5])
    assert len(prompts) == 1
    [match] = prompts.note([1, 2, 9]).matches
    assert (match.common, match.known.length, match.tail) == (2, 3, 1)
    [_, match] = prompts.note([1, 2, 3, 4, 6]).matches
    assert (match.common, match.tail) == (4, 0)


def test_another_answer_of_a_prompt_is_known_beside_the_first() -> None:
    prompts = KnownPrompts()
    prompts.note([1, 2, 3])
    prompts.note_answer([1, 2, 3, 4])
    prompts.note_answer([1, 2, 3, 7])
    assert prompts.note([1, 2, 3, 7, 8]).closest == Closest(4)
    assert [match.tail for match in prompts.note([1, 2, 9]).matches] == [3, 1]
