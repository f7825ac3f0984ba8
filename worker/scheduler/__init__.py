"""Scheduling: which requests wait, run or are preempted."""
