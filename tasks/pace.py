"""How fast the machine itself is while a task is timed: a fixed piece of work, timed between the points.

Other programs, heat and clocks slow a machine down for minutes, which no repetition within those minutes shows. The
same work done by two runs tells their machines' pace apart from their models' speed; `bench compare` uses it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..results.record import Metric
from .timing import time_ms

if TYPE_CHECKING:
    import torch

PACE = "pace"
"""The mode of a row of predictions that holds the pace."""
_SIZE, _REPEATS, _WARMUP, _MAX_CALL_S = 512, 7, 2, 60.0


def pace_ms(device: torch.device) -> list[float]:
    """Milliseconds of a product of two 512 x 512 matrices and an exponential of each element, in float32; 7 of them."""
    import torch

    one = torch.ones(_SIZE, _SIZE, device=device)

    def work() -> torch.Tensor:
        return (one @ one).div_(-_SIZE).exp_()

    times = [time_ms(work, device, _MAX_CALL_S) for _ in range(_WARMUP + _REPEATS)]
    return times[_WARMUP:]


def pace_metric(samples_ms: list[float]) -> Metric:
    """The pace as a metric that only describes."""
    import numpy as np

    from ..results.statistics import index_bootstrap

    ms = np.asarray(samples_ms)
    stderr = index_bootstrap(lambda draws: np.median(ms[draws], axis=1), ms.size)
    return Metric(f"{PACE}_ms", float(np.median(ms)), "ms", None, stderr, ms.size, samples=tuple(samples_ms))
