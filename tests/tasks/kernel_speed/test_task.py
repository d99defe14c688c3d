"""The tasks kernels/*: points, their statuses, and the metrics of rows known by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hedgebench.adapters.base import Adapter, Value
from hedgebench.results.record import Metric
from hedgebench.tasks.base import Row, Sources, Task
from hedgebench.tasks.kernel_speed import task as kernels
from hedgebench.tasks.kernel_speed.metrics import kernel_metrics
from hedgebench.tasks.kernel_speed.task import BACKWARD, DECODE, DISTILLATION, FORWARD, Kernels, KernelSettings
from hedgebench.tasks.kernel_speed.workloads import TimedCall

pytestmark = pytest.mark.usefixtures("brief_collections")

SETTINGS: Mapping[str, Value] = {
    "shapes": "1x8x2x16+1x16x2x16", "repeats": 3, "min_time_ms": 0.0, "warmup": 1, "min_warmup_ms": 0.0,
}  # fmt: skip
ON_CPU = cast(Adapter, SimpleNamespace(device=torch.device("cpu")))
MACHINE: Row = {
    "machine": {
        **{"gemm_samples_ms": [2.0, 1.0], "gemm_flops": 1e9, "copy_samples_ms": [1.0, 3.0], "copy_bytes": 1e8},
        "dtype": "float32",
        "products": "float32",
    }
}
"""A machine of 1 TFLOP/s and 0.1 TB/s."""


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "measure_machine", lambda device, dtype, products: MACHINE["machine"])


def measure(task: Kernels, sources: Sources, **settings: Value) -> tuple[list[Row], list[Metric]]:
    chosen = {**SETTINGS, **settings}
    rows = task.predict(ON_CPU, task.load(chosen, sources), chosen)
    return rows, task.score(rows, chosen)


def point(**values: Any) -> Row:
    """A point of 1,000 tokens, 2 heads of 64, that took 1, 2 and 3 ms."""
    sizes = {"batch": 1, "tokens": 1000, "heads": 2, "head_dim": 64, "sweep": "", "status": "ok"}
    times = {"samples_ms": [1.0, 2.0, 3.0], "first_call_s": 0.5, "peak_bytes": None, "telemetry": {}}
    calls = {"forward": {"ran": "chunk/torch", **times, **values.pop("call", {})}}
    return {"contender": "hedgehog", "calls": calls, **sizes, **values}


@pytest.mark.parametrize("task", [FORWARD, BACKWARD, DECODE, DISTILLATION], ids=lambda task: task.work)
def test_every_contender_has_a_point_at_every_shape(task: Kernels, sources: Sources) -> None:
    assert isinstance(task, Task)
    rows, metrics = measure(task, sources)
    points = [row for row in rows if "contender" in row]
    assert len(points) == 2 * len(KernelSettings().chosen(task.work))
    assert {row["status"] for row in points if row["contender"].startswith("hedgehog")} == {"ok"}
    assert all("run on CUDA" in row["message"] for row in points if row["contender"].startswith("fla"))
    assert metrics[0].name == task.info.main_metric
    assert metrics[0].value is not None
    assert metrics[0].n == 4  # three, shared out evenly among two turns


def test_a_contender_out_of_memory_is_not_tried_at_longer_sequences_of_the_same_heads(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def prepare(shape: Any, device: Any, dtype: Any) -> Mapping[str, TimedCall]:
        tried.append(shape.tokens)
        raise MemoryError("too large")

    monkeypatch.setattr(kernels, "WORKLOADS", {"forward": {"hedgehog": prepare}})
    rows, metrics = measure(FORWARD, sources, contenders="hedgehog", shapes="1x8x2x16+1x16x2x16+1x4x2x32")
    assert tried == [8, 4]
    assert [row["status"] for row in rows[1:]] == ["oom", "oom"]
    assert (metrics[0].value, metrics[0].status) == (None, "oom")


def test_a_contender_that_fails_has_no_value_and_the_others_have(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(shape: Any, device: Any, dtype: Any) -> Mapping[str, TimedCall]:
        raise KeyError("a mistake")

    monkeypatch.setattr(
        kernels, "WORKLOADS", {"forward": {"hedgehog": broken, "fla": lambda *_: {"forward": attended}}}
    )

    def attended() -> tuple[object, str]:
        return None, "chunk/fla"

    monkeypatch.setattr(kernels, "relative_error", lambda *_: None)
    rows, metrics = measure(FORWARD, sources, contenders="hedgehog+fla")
    assert [row["status"] for row in rows[1:]] == ["error", "ok", "error", "ok"]
    assert (metrics[0].name, metrics[0].value, metrics[0].status) == ("longest_tokens_per_s", None, "error")
    values = {metric.at["contender"]: metric.value for metric in metrics if metric.name == "forward_ms"}
    assert values["hedgehog"] is None
    assert values["fla"] is not None


def test_notes_say_what_cannot_run_here_once(sources: Sources) -> None:
    rows, _ = measure(FORWARD, sources, contenders="hedgehog+fla")
    notes = {note for row in rows for note in row.get("notes", ())}
    assert notes == {
        "unsupported: fla: UnsupportedError: flash-linear-attention's kernels run on CUDA; these tensors are on cpu"
    }


def test_metrics_of_a_point_known_by_hand() -> None:
    found = {metric.name: metric for metric in kernel_metrics("forward", [MACHINE, point()])}
    assert found["longest_tokens_per_s"].value == pytest.approx(1000 / 2e-3)
    assert (found["forward_ms"].value, found["forward_ms"].n) == (2.0, 3)
    assert found["forward_ms_p20"].value == pytest.approx(1.4)
    assert found["forward_ms_p80"].value == pytest.approx(2.6)
    # Of 64 dimensions in float32, four segments of 256 tokens: q, k, v, o and norms, k and v of three segments, W three
    # times, and the sums of four segments written, of three read, and of all keys.
    flops = 2 * (1000 * 73_728 + 768 * 24_576)
    moved = 2 * (4 * 1000 * 256 + 1000 * 4 + 2 * 768 * 256 + 3 * 64 * 64 * 4 + 8 * 128 * 65 * 4)
    assert found["forward_tflop_per_s"].value == pytest.approx(flops / 2e-3 / 1e12)
    assert found["forward_tb_per_s"].value == pytest.approx(moved / 2e-3 / 1e12)
    assert found["forward_percent_of_roofline"].value == pytest.approx(100 * (flops / 1e12) / 2e-3)
    assert (found["forward_flops"].value, found["forward_traffic_bytes"].value) == (flops, moved)
    assert found["longest_tokens_per_s_p20"].value == pytest.approx(4e5)  # of rates of 1/3, 1/2 and 1 million
    assert found["forward_first_call_s"].at["ran"] == "chunk/torch"
    assert found["forward_ms"].at == {
        "contender": "hedgehog", "seq_len": 1000, "batch_size": 1, "heads": 2, "head_dim": 64
    }  # fmt: skip


@pytest.mark.parametrize(("contender", "flops", "moved"), [
    ("softmax-flash", 2 * 2 * 1000**2 * 128 // 2, 2 * 1000 * 64 * 4 * 4),
    ("softmax-naive", 2 * 2 * 1000**2 * 128, 2 * 1000 * 64 * 4 * 4 + 4 * 2 * 1000**2 * 4),
])  # fmt: skip
def test_softmax_attention_has_counts_of_what_ran_and_no_roofline_of_ours(
    contender: str, flops: int, moved: int
) -> None:
    ran = {"softmax-flash": "softmax/sdpa_flash", "softmax-naive": "softmax/naive"}[contender]
    metrics = {m.name: m for m in kernel_metrics("forward", [MACHINE, point(contender=contender, call={"ran": ran})])}
    assert (metrics["forward_flops"].value, metrics["forward_traffic_bytes"].value) == (flops, moved)
    assert not any("roofline" in name for name in metrics)


def test_clocks_and_memory_are_those_of_the_call() -> None:
    told = {"telemetry": {"lowest_sm_clock_mhz": 1230, "throttled": "power cap"}, "peak_bytes": 77}
    found = {metric.name: metric.value for metric in kernel_metrics("forward", [MACHINE, point(call=told)])}
    assert found["forward_lowest_sm_clock_mhz"] == 1230
    assert found["forward_throttled"] == 1.0
    assert found["forward_peak_bytes"] == 77
    assert not {"forward_throttled", "forward_peak_bytes"} & {
        m.name for m in kernel_metrics("forward", [MACHINE, point()])
    }


@pytest.mark.parametrize(("settings", "message"), [
    ({"contenders": "hedghog"}, "unknown contender 'hedghog'; did you mean hedgehog"),
    ({"contenders": "quadratic"}, "contenders is 'quadratic'; kernels/forward has hedgehog"),
    ({"dtype": "float8"}, "unknown dtype 'float8'"),
    ({"shapes": "big"}, "shapes holds 'big'"),
])  # fmt: skip
def test_bad_settings_are_refused_before_anything_runs(
    settings: dict[str, Value], message: str, sources: Sources
) -> None:
    with pytest.raises(ValueError, match=message):
        FORWARD.identify({**SETTINGS, **settings}, sources)
