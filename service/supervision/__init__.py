"""Supervision: one worker process kept alive."""
