"""Answers held to a grammar: compiled by llguidance, checked apart, one mask a token."""
