"""Tests of tasks/sweep.py."""

from __future__ import annotations

import pytest
import torch

from hedgebench.adapters.base import UnsupportedError
from hedgebench.tasks.base import Row
from hedgebench.tasks.sweep import check_sweep, climb, failure_status

FAILURES: list[tuple[Exception, str]] = [
    (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
    (MemoryError(), "oom"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
    (UnsupportedError("no decoding"), "unsupported"),
    (NotImplementedError("no decoding"), "unsupported"),
    (TimeoutError("slow"), "timeout"),
]


@pytest.mark.parametrize(("error", "status"), FAILURES)
def test_limits_have_a_status(error: Exception, status: str) -> None:
    assert failure_status(error) == status


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("x"), KeyError("x")])
def test_mistakes_have_none(error: Exception) -> None:
    assert failure_status(error) is None


def test_a_climb_ends_with_the_first_point_that_fails() -> None:
    def measure(seq_len: int) -> Row:
        if seq_len >= 4:
            raise MemoryError("too long")
        return {"samples_ms": [float(seq_len)]}

    rows = list(climb("prefill", (8, 2, 1, 4), 3, measure))
    assert [(row["seq_len"], row["status"]) for row in rows] == [(1, "ok"), (2, "ok"), (4, "oom")]
    assert rows[0] == {"mode": "prefill", "seq_len": 1, "batch_size": 3, "status": "ok", "samples_ms": [1.0]}
    assert rows[2]["message"] == "MemoryError: too long"


def test_mistakes_pass_through_a_climb() -> None:
    def measure(seq_len: int) -> Row:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        list(climb("prefill", (1,), 1, measure))


def test_impossible_sweeps_are_refused() -> None:
    with pytest.raises(ValueError, match="seq_lens is \\(\\)"):
        check_sweep((), "prefill", ("prefill",))
    with pytest.raises(ValueError, match="modes holds 'decod'; join any of prefill, decode"):
        check_sweep((1,), "prefill+decod", ("prefill", "decode"))
