"""Thinking in answers and in replayed messages: its text, or the signature that encodes it."""

from __future__ import annotations

from service.api.messages.blocks import ThinkingBlock


def sign(model: str, text: str) -> str:
    """The signature of an answer's thinking."""
    return ""


def read(block: ThinkingBlock) -> str:
    """The thinking of an earlier answer; empty if nothing of it can be read."""
    return block.thinking
