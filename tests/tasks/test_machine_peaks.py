"""The machine's own peaks."""

import pytest
import torch

from hedgebench.tasks import machine_peaks
from hedgebench.tasks.machine_peaks import measure_peaks


def test_peaks_are_the_work_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(([4.0, 2.0, 3.0], [5.0, 8.0]))
    monkeypatch.setattr(machine_peaks, "time_calls", lambda *_: next(times))
    peaks = measure_peaks(torch.device("cpu"), torch.float32)
    assert peaks.flops_per_s == 2 * 1024**3 / 2e-3
    assert peaks.bytes_per_s == 2 * 2**26 / 5e-3
