"""A plan has everything that a step of another rank depends on."""

from __future__ import annotations

import dataclasses
import inspect

from protocol.messages import Configure
from worker.engine.engine import Engine
from worker.engine.sampler import Row
from worker.ranks.leading import LeadingEngine
from worker.ranks.plan import ChosenSlice, Insert, Plan, decode_plan, encode

# How each field of a row reaches the other ranks: in `Insert`, or made there by the same calls.
SENT = {
    "sampling": "sampling",
    "stop_token_ids": "stop_token_ids",
    "position": "position",
    "constraint": "constrained",
    "logprobs": "logprobs",
    "scorer": "scored",
    "alone": "alone",
    "priority": "priority",
}
MADE_THERE = {"logits_processors", "fault", "siblings", "reuse"}
# Rank 0 alone has them, and sends what it drafts with them.
DECIDES = {"drafter", "room"}


def test_each_field_of_a_row_is_in_the_plan_or_follows_from_it() -> None:
    fields = {field.name for field in dataclasses.fields(Row)}
    assert fields == SENT.keys() | MADE_THERE | DECIDES
    assert set(SENT.values()) <= set(Insert.__struct_fields__)


def test_each_parameter_of_an_engine_is_one_of_rank_0s_engine_or_decided_by_it() -> None:
    leading = set(inspect.signature(LeadingEngine.__init__).parameters)
    engine = set(inspect.signature(Engine.__init__).parameters)
    assert engine - leading == {"make_budget"}
    assert leading - engine == {"recorder"}


def test_a_plan_is_read_as_it_was_sent() -> None:
    plan = Plan(b"digest", [ChosenSlice(2, 32)])
    assert decode_plan(encode(plan)) == plan


def test_a_worker_is_one_process_unless_the_service_says_otherwise() -> None:
    assert Configure([], 1, 1, 0, 0, 0).ranks is None
