"""The machine's peaks are those of random data in the type that kernels multiply; its pace is a fixed piece of work."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hedgebench.kernels.distillation.launch import PRECISION
from hedgebench.kernels.triton.tiles import operands
from hedgebench.tasks.kernel_speed.workloads import products_of
from hedgebench.tasks.measuring import machine
from hedgebench.tasks.measuring.machine import machine_metrics, measure_machine, measure_pace, pace_metric
from hedgebench.tasks.measuring.timing import Timing

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, str]]:
    """What each call gave that was to be timed, and the precision that torch was set to."""
    found: list[tuple[torch.Tensor, str]] = []

    def time_once(call: Callable[[], Any], device: torch.device, repeats: object) -> Timing:
        found.append((call(), torch.get_float32_matmul_precision()))
        return Timing([2.0, 1.0], "host", is_stable=True, warmup_calls=0)

    monkeypatch.setattr(machine, "measure_calls", time_once)
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(machine, "_COPIED_BYTES", {"cpu": 2**25})
    return found


def test_operands_and_bytes_are_random_and_the_same_each_time(timed: list[tuple[torch.Tensor, str]]) -> None:
    row = measure_machine(CPU, torch.float32)
    (product, precision), (copied, _) = timed
    assert product.std().item() == pytest.approx(8.0, rel=0.2)  # of sums of 64 products of standard normal numbers
    assert len(set(product.flatten().tolist())) > 4000
    assert len(np.unique(copied.numpy())) == 256
    assert precision == "highest"
    assert (row["gemm_flops"], row["copy_bytes"]) == (2 * 64**3, 2 * 2**25)
    measure_machine(CPU, torch.float32)
    assert torch.equal(timed[2][0], product)


@pytest.mark.parametrize(("products", "share"), [("tf32", 1), ("tf32x3", 3)])
def test_a_peak_in_tf32_is_measured_in_tf32_and_is_a_third_where_it_takes_three(
    products: str, share: int, timed: list[tuple[torch.Tensor, str]]
) -> None:
    row = measure_machine(CPU, torch.bfloat16, products)
    assert [(result.dtype, precision) for result, precision in timed[:1]] == [(torch.float32, "high")]
    assert torch.get_float32_matmul_precision() == "highest"
    gemm = machine_metrics(row)[0]
    assert gemm.value == pytest.approx(2 * 64**3 / share * 1e3)
    assert gemm.at == {"dtype": products}
    assert row["dtype"] == "bfloat16"


def test_products_are_those_that_the_kernels_make() -> None:
    cuda = torch.device("cuda")
    assert products_of("distillation", cuda, torch.bfloat16) == PRECISION
    for dtype in (torch.float16, torch.float32):
        precision = operands(dtype)["PRECISION"]
        assert products_of("forward", cuda, dtype) == ("float32" if precision == "ieee" else precision)
    assert products_of("backward", cuda, torch.bfloat16) == "bfloat16"
    assert products_of("distillation", CPU, torch.float32) == "float32"


def test_the_same_work_is_timed_again_and_again() -> None:
    samples = measure_pace(CPU)
    assert {work: len(times) for work, times in samples.items()} == {"compute": 7, "calls": 7, "memory": 7}
    assert min(min(times) for times in samples.values()) > 0


def test_the_pace_only_describes_and_keeps_its_samples() -> None:
    metric = pace_metric("memory", [3.0, 1.0, 2.0])
    assert (metric.value, metric.unit, metric.higher_is_better, metric.n) == (
        statistics.median((1, 2, 3)),
        "ms",
        None,
        3,
    )
    assert metric.at == {"work": "memory"}
    assert metric.samples == (3.0, 1.0, 2.0)
