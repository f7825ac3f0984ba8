"""Structured output: grammars compiled by llguidance, one token mask a step."""
