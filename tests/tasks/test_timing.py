"""Tests of tasks/timing.py."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from hedgebench.tasks.timing import Repeats, log_log_slope, time_calls, time_ms

CPU = torch.device("cpu")


def test_a_sleep_takes_as_long_as_it_says() -> None:
    assert time_ms(lambda: time.sleep(0.005), CPU, max_call_s=60) >= 5


def test_calls_are_warmed_up_and_every_sample_is_kept() -> None:
    calls: list[int] = []
    samples = time_calls(lambda: calls.append(1), CPU, Repeats(count=4, min_time_ms=0, warmup=3, max_call_s=60))
    assert len(samples) == 4
    assert 5 <= len(calls) <= 7


def test_short_calls_are_repeated_for_the_least_time_but_not_without_end() -> None:
    assert len(time_calls(lambda: None, CPU, Repeats(count=2, min_time_ms=1e9, warmup=0, max_call_s=60))) == 40


def test_a_slow_call_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match="more than max_call_s"):
        time_ms(lambda: time.sleep(0.01), CPU, max_call_s=0.001)


def test_a_power_law_has_its_exponent_as_slope() -> None:
    slope, stderr = log_log_slope([128, 256, 512, 1024], [3e-3 * n**1.7 for n in (128, 256, 512, 1024)])
    assert slope == pytest.approx(1.7)
    assert stderr == pytest.approx(0, abs=1e-6)


def test_the_slopes_error_is_that_of_a_regression() -> None:
    from scipy import stats

    lengths, times = [1, 2, 4, 8], [1.0, 2.5, 3.5, 9.0]
    expected: Any = stats.linregress(np.log(lengths), np.log(times))
    assert log_log_slope(lengths, times) == pytest.approx((expected.slope, expected.stderr))
