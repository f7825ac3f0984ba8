"""The grammar of reasoning, which is free, before what a grammar holds to."""

from __future__ import annotations

from worker.tool_calls.grammar import SpecialTokens, to_lark, until_rules
from worker.tool_calls.markers import Markers

# What may follow a think block: some models write line breaks, and none may repeat them.
SPACE_AFTER = r"/\s{0,4}/"
ANALYSIS = "<|channel|>analysis<|message|>"
ANALYSIS_END = "<|end|>"
NEXT_MESSAGE = "<|start|>assistant"


def make_think_block(markers: Markers, special_tokens: SpecialTokens, *, begun: bool) -> str:
    """The Lark text of a think block, which the prompt has `begun`, or which may be left out."""
    opening = to_lark(markers.think_start, special_tokens)
    block = f"thought {SPACE_AFTER}"
    rules = [f"start: {block}" if begun else f"start: ({opening} {block})?"]
    # After the block: markers of content, each of which may be left out.
    rules[0] += "".join(f" ({to_lark(each, special_tokens)})?" for each in markers.structural)
    return "\n".join([*rules, *until_rules("thought", markers.think_end, special_tokens)])


def make_analysis(special_tokens: SpecialTokens) -> str:
    """The Lark text of Harmony's message of reasoning, which may be left out."""
    start, following = to_lark(ANALYSIS, special_tokens), to_lark(NEXT_MESSAGE, special_tokens)
    return "\n".join([
        "start: message?",
        f"message: {start} thought {following}",
        *until_rules("thought", ANALYSIS_END, special_tokens),
    ])  # fmt: skip
