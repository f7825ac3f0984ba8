"""The time of the device's work, and the average of several measurements."""

from __future__ import annotations

import time

import mlx.core as mx

# The weight of a new measurement in the moving average.
NEW_WEIGHT = 0.2


class Stopwatch:
    """Measures the device: on the CPU what other processes take meanwhile does not count."""

    def __init__(self) -> None:
        self._on_cpu = mx.default_device() == mx.Device(mx.cpu)
        self._started_s, self._cpu_s = time.perf_counter(), time.process_time()

    def read_s(self) -> float:
        """The seconds since it was made."""
        elapsed_s = time.perf_counter() - self._started_s
        return min(elapsed_s, time.process_time() - self._cpu_s) if self._on_cpu else elapsed_s


def moving_average(average: float, new: float, weight: float = NEW_WEIGHT) -> float:
    """The next exponential moving average; an average of 0 has no value yet."""
    return new if not average else average + weight * (new - average)
