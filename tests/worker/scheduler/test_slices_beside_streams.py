"""How long tokens wait for slices, and prompts for tokens, on a device of known speed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.worker.scheduler.timed_device import DECODE_S, TimedDevice, request, stream
from tests.worker.simulation import make_pool
from worker.engine.prefill_budget import MIN_PREFILL_S

# Of what follows from integers of tokens, and from messages.
ROUNDING_S = 0.002
STREAM_BEGINS_S = 0.5


def test_a_long_prompt_has_nearly_half_of_the_time_beside_a_stream(
    device: TimedDevice, paths: list[Path]
) -> None:
    long = request(1, "a", paths[0], 400)
    device.run([(0.0, stream(paths[0], 100)), (STREAM_BEGINS_S, long)])
    [ended_s] = device.sent_at[1]
    assert ended_s < device.sent_at[0][-1]
    prefill_s = sum(seconds for _, end, seconds in device.slices if end > STREAM_BEGINS_S)
    assert 0.45 <= prefill_s / (ended_s - STREAM_BEGINS_S) <= 0.55


def test_a_token_waits_for_one_slice_of_all_models(device: TimedDevice, paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        prompts = [request(10 * number + n, path.name, path, 80) for n in (1, 2, 3)]
        device.next_of |= {a.id: b for a, b in pairwise(prompts)}
        device.arrivals.append((STREAM_BEGINS_S, prompts[0]))
    device.run([(0.0, stream(paths[0], 200)), *device.arrivals])
    ended_s = max(device.sent_at[10 * number + 3][0] for number in range(3))
    assert ended_s < device.sent_at[0][-1]
    ends = [end for _, end, _ in device.slices]
    for before, after in pairwise(device.sent_at[0]):
        if STREAM_BEGINS_S < after < ended_s:
            # The token before a slice does not wait for it.
            assert sum(before < end <= after for end in ends) <= 1


def test_prompts_of_two_models_take_turns_beside_the_answers_of_one(
    device: TimedDevice, paths: list[Path]
) -> None:
    chains = [[request(10 * m + n, f"c{m}", paths[m], 100) for n in range(1, 5)] for m in (0, 1)]
    device.next_of = {a.id: b for chain in chains for a, b in pairwise(chain)}
    begin = [(STREAM_BEGINS_S, chain[0]) for chain in chains]
    device.run([(0.0, stream(paths[0], 150)), *begin])
    ends = [[device.sent_at[each.id][0] for each in chain] for chain in chains]
    ended_s = max(ends[0][-1], ends[1][-1])
    assert ended_s < device.sent_at[0][-1]
    prefill_s = sum(seconds for _, end, seconds in device.slices if end > STREAM_BEGINS_S)
    assert 0.4 <= prefill_s / (ended_s - STREAM_BEGINS_S) <= 0.55
    # Neither model's prompts wait for those of the other one.
    prompt_s = ended_s - ends[0][-2]
    assert all(abs(own - other) < prompt_s for own, other in zip(*ends, strict=True))


def test_rows_without_tokens_to_prefill_take_no_turn(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    for floods in (1, 60):
        pool = make_pool(*paths, preload=[path.name for path in paths])
        device = TimedDevice(pool, monkeypatch)
        # The only token of such a prompt is for the first decode step.
        short = [request(100 + n, "f", paths[0], 1) for n in range(floods)]
        device.next_of = {a.id: b for a, b in pairwise(short)}
        begin = [(STREAM_BEGINS_S, each) for each in (short[0], request(1, "a", paths[1], 250))]
        device.run([(0.0, stream(paths[0], 100)), *begin])
        assert device.sent_at[1][0] < device.sent_at[0][-1]
        waits.append(device.sent_at[1][0] - STREAM_BEGINS_S)
    assert waits[1] <= 1.05 * waits[0]


def test_slices_are_short_beside_rows_whose_speed_is_not_measured(
    device: TimedDevice, paths: list[Path]
) -> None:
    own, others = request(1, "s", paths[0], 2000), request(2, "a", paths[1], 1000)
    fast = [request(3, "a", paths[1], 100), request(4, "a", paths[1], 90)]
    device.token_s = {paths[0].name: 0.01, paths[1].name: 0.0005}
    # Each step of the first model has a slice, so its decode steps are not measured.
    start = [(0.0, each) for each in fast]
    begin = [(STREAM_BEGINS_S, stream(paths[0], 40)), (STREAM_BEGINS_S, own)]
    device.run([*start, *begin, (STREAM_BEGINS_S + 0.2, others)])
    began_s, ended_s = device.sent_at[0][0], device.sent_at[0][-1]
    during = [s for name, end, s in device.slices if name == "second" and began_s < end < ended_s]
    assert len(during) > 1
    assert max(during) <= MIN_PREFILL_S + ROUNDING_S


def test_a_short_prompt_waits_for_a_slice_and_what_pays_for_it(
    device: TimedDevice, paths: list[Path]
) -> None:
    floods = [request(100 + n, "f", paths[0], 300) for n in range(5)]
    pings = [request(200 + n, "p", paths[0], 6) for n in range(4)]
    arrivals = [(STREAM_BEGINS_S, each) for each in floods]
    pinged = {each.id: 2.0 + 0.513 * n for n, each in enumerate(pings)}
    arrivals += [(pinged[each.id], each) for each in pings]
    device.run([(0.0, stream(paths[0], 220)), *arrivals])
    slices = [seconds for _, end, seconds in device.slices if end > STREAM_BEGINS_S + 0.3]
    assert max(pinged.values()) + 1 < device.sent_at[0][-1]
    for id, began_s in pinged.items():
        # Each fourth slice is for the oldest prompt; its own slice is paid for in turn.
        most_s = 2 * (2 * max(slices) + DECODE_S) + 3 * DECODE_S
        assert device.sent_at[id][0] - began_s <= most_s
