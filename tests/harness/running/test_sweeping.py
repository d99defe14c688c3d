"""A sweep whose points run out of memory or time, or are killed, goes on, says so, and is resumed where it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hedgebench.adapters.precision import Precision
from hedgebench.harness.config import RunConfig, make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running import measure, process
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.process import CellProcesses
from hedgebench.harness.running.worker import run_job
from hedgebench.harness.weights.build import build_layer
from hedgebench.results.record import Record
from hedgebench.results.store import RunStore
from hedgebench.tasks.efficiency.points import Point

from ...adapters.tiny_models import CONTEXT_LENGTH, save_tiny

Bench = Callable[..., Any]
StartBench = Callable[..., "subprocess.Popen[str]"]
SWEEP = ("run", "--models", "softmax", "--tasks", "naughty_sweep", "--output", "out")
POINTS = [(mode, length) for mode in ("prefill", "train") for length in (1, 2, 3)]


@pytest.fixture
def warm(make_job: Callable[..., CellJob], naughty: Path) -> None:
    """Processes fork from a server; a time limit would else be short for its start where much else runs."""
    assert CellProcesses().run(make_job(), lambda _: None).record.status == "ok"


def record() -> Record:
    (found,) = RunStore(Path("out")).records().records
    return found


def statuses() -> dict[tuple[Any, Any], str]:
    return {(metric.at["mode"], metric.at["seq_len"]): metric.status for metric in record().metrics}


def measured() -> Counter[str]:
    """How often each point was begun."""
    return Counter(line.split()[0] for line in Path("marker").read_text(encoding="utf-8").splitlines())


def expected(status: str, *, ends_the_climb: bool) -> dict[tuple[str, int], str]:
    found = dict.fromkeys(POINTS, "ok") | {("prefill", 2): status}
    if ends_the_climb:
        del found["prefill", 3]
    return found


def test_points_are_told_with_their_number(make_job: Callable[..., CellJob], naughty: Path) -> None:
    told: list[Any] = []
    (planned,) = make_plan(RunConfig(models=("softmax",), tasks=("naughty_sweep",)))
    CellProcesses().run(make_job(planned=planned), told.append)
    assert [message["done"] for message in told] == list(range(6))
    assert {message["total"] for message in told} == {6}
    assert [message["doing"] for message in told[:2]] == ["prefill 1", "prefill 2"]
    assert {(message["phase"], message["unit"]) for message in told} == {("points", "points")}


def test_every_point_has_a_process_of_its_own(bench: Bench, naughty: Path) -> None:
    assert bench(*SWEEP).code == 0
    assert statuses() == expected("ok", ends_the_climb=False)
    lines = Path("marker").read_text(encoding="utf-8").splitlines()
    assert len({line.split()[1] for line in lines}) == len(POINTS)
    assert record().status == "ok"
    data = record().data
    assert data is not None
    assert data.details == {
        "tokenizer_source": "not stated", "prefix_token": "not stated", "label_mapping": "none", "paired_by": "none",
        "paired_digest": "none",
    }  # fmt: skip
    assert not Path("out/checkpoints", record().cell_id).exists()
    assert bench(*SWEEP).code == 0
    assert set(measured().values()) == {1}


def test_models_take_turns_point_by_point(bench: Bench, naughty: Path) -> None:
    models = ("--models", "softmax,elu")
    assert bench("run", *models, *SWEEP[3:]).code == 0
    lines = Path("marker").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == [f"{mode}-{n}-1-sweep" for mode, n in POINTS for _ in range(2)]
    assert {found.model for found in RunStore(Path("out")).records().records} == {"softmax", "elu"}


@pytest.mark.parametrize("how", ["memory", "sleep"])
def test_a_point_out_of_memory_or_time_is_a_result_and_the_sweep_goes_on(bench: Bench, warm: None, how: str) -> None:
    status = {"memory": "oom", "sleep": "timeout"}[how]
    limit = "4" if how == "sleep" else "60"
    finished = bench(*SWEEP, "--set", f"how={how}", "--set", f"point_timeout_s={limit}")
    assert finished.code == 0, finished.err
    assert statuses() == expected(status, ends_the_climb=True)
    assert record().status == "ok"
    (note,) = record().notes
    assert note.startswith(f"prefill-2-1-sweep: {status}: ")


@pytest.mark.parametrize(("how", "error"), [("kill", "Killed"), ("exit", "Crashed"), ("error", "ValueError")])
def test_a_killed_or_broken_point_fails_its_cell_alone_and_is_all_that_runs_again(
    bench: Bench, naughty: Path, how: str, error: str
) -> None:
    finished = bench(*SWEEP, "--set", f"how={how}")
    assert finished.code == 3
    assert statuses() == expected("error", ends_the_climb=False)
    found = record()
    assert found.status == "error"
    assert found.error is not None
    assert (found.error.type, found.error.message.split(":")[0]) == (error, "prefill-2-1-sweep")
    assert bench(*SWEEP, "--set", f"how={how}").code == 3
    assert measured() == {f"{mode}-{n}-1-sweep": 2 if (mode, n) == ("prefill", 2) else 1 for mode, n in POINTS}


def test_a_run_killed_midway_goes_on_with_what_is_missing(start_bench: StartBench, bench: Bench, naughty: Path) -> None:
    running = start_bench(*SWEEP, "--set", "how=sleep_once")
    while not Path("marker").exists() or "prefill-2" not in Path("marker").read_text(encoding="utf-8"):
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert bench(*SWEEP, "--set", "how=sleep_once").code == 0
    assert statuses() == expected("ok", ends_the_climb=False)
    assert measured() == {f"{mode}-{n}-1-sweep": 2 if (mode, n) == ("prefill", 2) else 1 for mode, n in POINTS}


def test_a_model_that_cannot_be_built_is_no_point_and_keeps_what_the_machine_gave(bench: Bench) -> None:
    flags = ("--set", "modes=prefill", "--set", "seq_lens=16,32")
    finished = bench("run", "--models", "gla:window=16", "--tasks", "throughput", *flags, "--output", "out")
    assert finished.code == 3
    found = record()
    assert (found.status, found.error and found.error.type) == ("error", "ValueError")
    assert {metric.name for metric in found.metrics} == {"pace_ms"}


def test_lengths_past_the_positions_of_a_pretrained_model_are_unsupported_and_shorter_ones_measured(
    bench: Bench, tmp_path: Path
) -> None:
    folder = save_tiny("gpt2", tmp_path / "gpt2")
    settings = ("modes=prefill+layer_prefill", f"seq_lens=16,{2 * CONTEXT_LENGTH}", "repeats=1", "warmup=0")
    flags = [flag for setting in (*settings, "min_time_ms=0") for flag in ("--set", setting)]
    task = ("--tasks", "throughput:max_batch=2", "--backbone", f"hf:{folder}")
    finished = bench("run", "--models", "softmax", *task, *flags, "--output", "out")
    assert finished.code == 0, finished.out + finished.err
    found = {m.at["seq_len"]: m.status for m in record().metrics if m.name == "prefill_ms"}
    assert found == {16: "ok", 2 * CONTEXT_LENGTH: "unsupported"}
    layers = {m.at["seq_len"]: m.status for m in record().metrics if m.name == "layer_prefill_ms"}
    assert layers == {16: "ok", 2 * CONTEXT_LENGTH: "ok"}


def test_a_layer_alone_has_weights_in_float32_and_runs_under_autocast_as_a_trained_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Precision] = []

    def build(*arguments: Any) -> Any:
        built.append(arguments[3])
        return build_layer(*arguments)

    monkeypatch.setattr(measure, "build_layer", build)
    monkeypatch.setattr(measure, "hold_processors", lambda _: None)
    asked = {"models": ("elu",), "tasks": ("throughput",), "device": "cpu", "dtype": "bfloat16", "scale": "smoke"}
    config = make_config({**asked, "set": {"repeats": "1", "warmup": "0", "min_time_ms": "0"}})
    (planned,) = make_plan(config)
    point = Point("layer_prefill", 16, 1, subject="layer")
    job = CellJob(planned, config, tmp_path, make_sources(config), threads=1, point=point)
    found = run_job(job, lambda _: None)
    assert (found.record.status, found.record.error) == ("ok", None)
    assert [(precision.dtype, precision.is_pure) for precision in built] == [(torch.bfloat16, False)]


def test_what_rows_say_of_themselves_is_noted_once_for_each_mode(bench: Bench, naughty: Path) -> None:
    assert bench(*SWEEP, "--set", "how=note").code == 0
    assert record().notes == ("prefill: a fallback", "train: a fallback")


def test_a_task_that_times_in_one_process_keeps_to_its_processors_and_notes_what_its_rows_say(
    bench: Bench, naughty: Path
) -> None:
    command = ("run", "--models", "softmax", "--tasks", "naughty_alone", "--set", "how=note", "--output", "out")
    assert bench(*command).code == 0
    assert record().environment["processors"] == str(min(os.sched_getaffinity(0)))
    assert "a fallback" in record().notes


def test_a_point_stopped_by_the_cells_time_limit_is_no_result_and_runs_again_with_more_time(
    bench: Bench, warm: None
) -> None:
    """The limit holds for all points together: those before it count."""
    assert bench(*SWEEP, "--set", "how=sleep_once", "--timeout", "6").code == 3
    found = record()
    assert found.status == "timeout"
    assert statuses()["prefill", 1] == "ok"
    assert found.error is not None
    assert found.error.message == "the time limit was up during prefill-2-1-sweep"
    assert ("prefill", 2) not in statuses()
    assert bench(*SWEEP, "--set", "how=sleep_once", "--timeout", "60").code == 0
    assert statuses() == expected("ok", ends_the_climb=False)
    assert measured()["prefill-2-1-sweep"] == 2


def test_a_kill_that_the_system_counts_as_its_own_is_out_of_memory(
    make_job: Callable[..., CellJob], naughty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([0, 1])
    monkeypatch.setattr(process, "count_oom_kills", lambda: next(counts))
    found = CellProcesses().run(make_job("kill"), lambda _: None).record
    assert found.status == "oom"
    assert found.error is not None
    assert "ran out of memory" in found.error.message


def test_host_memory_that_runs_out_under_a_limit_is_a_point_of_a_real_sweep(bench: Bench) -> None:
    settings = ("modes=prefill+state", "seq_lens=32,2048,4096", "memory_limit_mb=64")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    models = "softmax:backend=naive,elu"
    finished = bench("run", "--models", models, "--tasks", "memory", "--scale", "smoke", *flags, "--output", "out")
    assert finished.code == 0, finished.out + finished.err
    records = {found.model: found for found in RunStore(Path("out")).records().records}
    peaks = {
        model: {m.at["seq_len"]: m.status for m in found.metrics if m.name == "peak_allocated_bytes"}
        for model, found in records.items()
    }
    assert peaks == {
        "softmax:backend=naive": {32: "ok", 2048: "oom"},
        "elu": {32: "ok", 2048: "ok", 4096: "ok"},
    }
    (headline,) = (m for m in records["softmax:backend=naive"].metrics if m.name == "longest_prefill_peak_bytes")
    assert (headline.value, headline.status) == (None, "oom")
    assert "OOM" in finished.out
    assert records["elu"].environment["processors"] == str(min(os.sched_getaffinity(0)))


def test_a_backend_that_does_not_exist_here_is_unsupported_and_others_are_named_as_what_ran(bench: Bench) -> None:
    models = "softmax:backend=sdpa_math,softmax:backend=sdpa_cudnn"
    settings = ("modes=layer_prefill", "seq_lens=16", "repeats=1", "warmup=0", "min_time_ms=0")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    finished = bench("run", "--models", models, "--tasks", "throughput", "--scale", "smoke", *flags, "--output", "out")
    assert finished.code == 0, finished.out + finished.err
    records = {found.model: found for found in RunStore(Path("out")).records().records}
    found = {m: [p.status for p in r.metrics if p.name == "layer_prefill_ms"] for m, r in records.items()}
    assert found == {"softmax:backend=sdpa_math": ["ok"], "softmax:backend=sdpa_cudnn": ["unsupported"]}
    ran = records["softmax:backend=sdpa_math"].kernels
    assert [(kernel.phase, kernel.backend) for kernel in ran] == [("layer_prefill", "sdpa_math")]


@pytest.mark.gpu
def test_on_cuda_each_backend_runs_pinned_and_memory_that_runs_out_is_a_point(bench: Bench) -> None:
    models = ",".join(f"softmax:backend={name}" for name in ("naive", "sdpa_math", "sdpa_flash", "sdpa_efficient"))
    settings = ("modes=layer_prefill", "seq_lens=256,65536", "memory_limit_mb=2048", "repeats=3", "min_time_ms=0")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    command = ("run", "--models", models, "--tasks", "throughput", "--device", "cuda", *flags, "--output", "out")
    finished = bench(*command)
    assert finished.code == 0, finished.out + finished.err
    for found in RunStore(Path("out")).records().records:
        backend = found.model.partition("=")[2]
        assert {kernel.backend for kernel in found.kernels} == {backend}
        points = {m.at["seq_len"]: m.status for m in found.metrics if m.name == "layer_prefill_ms"}
        assert points == {256: "ok", 65536: "oom" if backend in ("naive", "sdpa_math") else "ok"}
