"""How fast the machine itself is while a task is timed: a fixed piece of work, timed between the points.

Other programs, heat and clocks slow a machine down for minutes, which no repetition within those minutes shows. The
same work done by two runs tells their machines' pace apart from their models' speed; `bench compare` uses it so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...results.record import Metric
from .timing import time_ms

if TYPE_CHECKING:
    import torch

PACE = "pace"
"""The mode of a row of predictions that holds the pace."""
_SIZE, _SMALL, _CALLS, _NUMBERS = 512, 1 << 16, 100, 1 << 23
_REPEATS, _WARMUP, _MAX_CALL_S = 7, 2, 60.0


def measure_pace(device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each kind of fixed work, 7 samples of each.

    `compute` is a product of two 512 x 512 matrices, which stay in the cache; `calls` is 100 exponentials of
    65,536 numbers, most of which is starting them and waiting for all threads; `memory` is the exponential of 8 million
    numbers in memory that is new each time, as activations are. All in float32.
    """
    import torch

    one = torch.ones(_SIZE, _SIZE, device=device)
    small = torch.ones(_SMALL, device=device)
    works: dict[str, Callable[[], object]] = {
        "compute": lambda: one @ one,
        "calls": lambda: [small.exp() for _ in range(_CALLS)],
        "memory": lambda: torch.zeros(_NUMBERS, device=device).exp_(),
    }
    samples = {}
    for name, work in works.items():
        times = [time_ms(work, device, _MAX_CALL_S) for _ in range(_WARMUP + _REPEATS)]
        samples[name] = times[_WARMUP:]
    return samples


def pace_metric(work: str, samples_ms: list[float]) -> Metric:
    """The pace of one kind of work as a metric that only describes."""
    import numpy as np

    from ...results.stats.statistics import index_bootstrap

    ms = np.asarray(samples_ms)
    stderr = index_bootstrap(lambda draws: np.median(ms[draws], axis=1), ms.size)
    at = {"work": work}
    return Metric(f"{PACE}_ms", float(np.median(ms)), "ms", None, stderr, ms.size, at, samples=tuple(samples_ms))
