"""Reads the calls of one form as their text arrives: JSON, tagged text, or literals."""
