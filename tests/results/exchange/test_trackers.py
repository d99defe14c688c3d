"""What trackers hold of a run, read back with their own readers: a real MLflow server, W&B's files, event files."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.results.exchange.tracker_payload import folder_name, measurements, parameters, record_digest, run_files
from hedgebench.results.exchange.trackers import open_tracker, send_all
from hedgebench.results.record import CurvePoint, Failure, KernelUse, Metric, Record, from_json
from hedgebench.results.report.write import write_report
from hedgebench.results.store import RunStore

from ..simulated import make_record

START_S = 180
"""A server is up after some seconds on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's own server on loopback, which keeps to a folder and is ended with the tests."""
    for module in ("mlflow", "flask", "flask_cors", "sqlalchemy", "alembic", "graphene"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            env={**os.environ, **quiet},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer after {START_S} s: {log.read_text()}")


@pytest.fixture(scope="module")
def cells() -> list[Record]:
    """A cell with curves, one with a sweep and a point out of memory, and one that failed."""
    quality = Metric("perplexity", 20.0, "1", False, 0.25, 100)
    curves = (CurvePoint(0, "train", "loss", 4.0), CurvePoint(10, "train", "loss", 2.5))
    points = ((512, 3.0, 0.5, "ok"), (1024, None, None, "oom"))
    sweep = tuple(
        Metric("prefill_ms", value, "ms", False, stderr, 3, {"seq_len": length, "batch_size": 1}, status)  # type: ignore[arg-type]
        for length, value, stderr, status in points
    )
    facts: dict[str, Any] = {
        "settings": {"train.lr": 0.01, "train.betas": (0.9, 0.999), "task.stride": None},
        "kernels": (KernelUse("train", "chunk", "torch"), KernelUse("evaluate", "chunk", "torch")),
        "environment": {"torch": "2.13.0", "threads": 2, "gpu": None},
    }
    failed = {"status": "error", "error": Failure("ValueError", "it broke"), "main_metric": "perplexity"}
    return [
        make_record("hedgehog:map=softmax", "wikitext2", 0, (quality,), cell_id="c1", curves=curves, **facts),
        make_record("elu", "throughput", 0, sweep, cell_id="c2", **facts),
        make_record("relu", "wikitext2", 0, (), cell_id="c3", **facts, **failed),
    ]


@pytest.fixture(scope="module")
def run(cells: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with these cells."""
    store = RunStore(tmp_path_factory.mktemp("runs") / "a run")
    store.create()
    for record in cells:
        store.write_record(record)
    write_report(store)
    return store.root


def send(name: str, run: Path, cells: list[Record]) -> str:
    return send_all(open_tracker(name, run), run, cells)


def test_numbers_have_one_name_for_each_point_and_none_without_a_value(cells: list[Record]) -> None:
    assert measurements(cells[0]) == {"timings_s/train": 1.0, "perplexity": 20.0, "perplexity_stderr": 0.25}
    assert measurements(cells[1]) == {
        "timings_s/train": 1.0,
        "prefill_ms/batch_size:1/seq_len:512": 3.0,
        "prefill_ms_stderr/batch_size:1/seq_len:512": 0.5,
    }


def test_parameters_say_what_ran_and_leave_out_what_is_not_set(cells: list[Record]) -> None:
    found = parameters(cells[0])
    assert (found["model"], found["seed"], found["train.betas"]) == ("hedgehog:map=softmax", 0, "0.9, 0.999")
    assert (found["data"], found["kernels"]) == ("wikitext2 1", "chunk (torch)")
    assert {"limit", "task.stride"}.isdisjoint(found)
    assert "limit" in parameters(replace(cells[0], limit=5))


def test_records_are_told_apart_by_digests_of_the_length_that_trackers_hold(cells: list[Record]) -> None:
    digests = [record_digest(each) for each in cells]
    assert len(set(digests)) == len(cells)
    assert {len(each) for each in digests} == {16}


def test_mlflow_holds_parameters_metrics_curves_and_files(
    mlflow_server: str, run: Path, cells: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "all of it")
    assert send("mlflow", run, cells) == "experiment 'all of it', run 'a run'"
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("all of it")
    assert experiment is not None
    by_name = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    parent = by_name["a run"].info.run_id
    assert len(by_name) == 4
    first = by_name["hedgehog:map=softmax / gpt / wikitext2 / seed 0"]
    assert first.data.params == {key: str(value) for key, value in parameters(cells[0]).items()}
    assert {key: first.data.metrics[key] for key in measurements(cells[0])} == measurements(cells[0])
    assert (first.data.tags["mlflow.parentRunId"], first.data.tags["environment.torch"]) == (parent, "2.13.0")
    history = client.get_metric_history(first.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 4.0), (10, 2.5)]
    assert by_name["elu / gpt / throughput / seed 0"].data.metrics["prefill_ms/batch_size:1/seq_len:512"] == 3.0
    statuses = {str(name).split()[0]: found.info.status for name, found in by_name.items()}
    assert statuses == {"hedgehog:map=softmax": "FINISHED", "elu": "FINISHED", "relu": "FAILED", "a": "FINISHED"}
    kept = Path(client.download_artifacts(first.info.run_id, "record.json", str(run)))
    assert from_json(json.loads(kept.read_text())) == cells[0]
    top = {file.path for file in client.list_artifacts(parent)}
    assert top == {"leaderboard.csv", "leaderboard.md", "leaderboard.json", "report.html", "plots"}
    plots = {file.path for file in client.list_artifacts(parent, "plots")}
    assert plots == {name for name in run_files(run) if name.startswith("plots/")} != set()


def gone(*_: object) -> None:
    raise ConnectionError("gone")


def test_mlflow_gets_a_record_once_and_goes_on_where_it_broke_off(
    mlflow_server: str, run: Path, cells: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "twice")
    client = MlflowClient(mlflow_server)
    tracker = open_tracker("mlflow", run)
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_text", gone)
        with pytest.raises(ConnectionError, match="gone"):
            tracker.send_cell(cells[0])
    for _ in range(2):
        send("mlflow", run, cells)
    experiment = client.get_experiment_by_name("twice")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert sorted(each.info.status for each in found) == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]
    open_tracker("mlflow", run).send_cell(replace(cells[0], notes=("measured again",)))
    assert len(client.search_runs([experiment.experiment_id])) == 5


def test_event_files_hold_parameters_metrics_curves_and_plots(run: Path, cells: list[Record]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hparams: Any = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")

    for _ in range(2):
        assert send("tensorboard", run, cells) == f"tensorboard --logdir {run}/tensorboard"
    folders = {folder.name for folder in (run / "tensorboard").iterdir()}
    assert folders == {"report", *(folder_name(record) for record in cells)}
    accumulator = EventAccumulator(str(run / "tensorboard" / folder_name(cells[0]))).Reload()
    values = {tag: accumulator.Tensors(tag)[0].tensor_proto.float_val[0] for tag in measurements(cells[0])}
    assert values == pytest.approx(measurements(cells[0]))
    curve = [(event.step, event.tensor_proto.float_val[0]) for event in accumulator.Tensors("train/loss")]
    assert curve == [(0, 4.0), (10, 2.5)]
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    facts = hparams.HParamsPluginData.FromString(content).session_start_info.hparams
    assert facts["model"].string_value == "hedgehog:map=softmax"
    assert facts["train.lr"].number_value == 0.01
    report = EventAccumulator(str(run / "tensorboard" / "report")).Reload()
    (text,) = report.Tensors("leaderboard.md")[0].tensor_proto.string_val
    assert text.decode() == (run / "leaderboard.md").read_text()
    images = report.Tags()["images"]
    assert set(images) == {name for name in run_files(run) if name.endswith(".png")} != set()
    shown = report.Images(images[0])[0]
    assert shown.encoded_image_string == (run / images[0]).read_bytes()
    assert min(shown.width, shown.height) > 100


def test_wandbs_files_hold_parameters_metrics_curves_and_files(
    run: Path, cells: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        assert send("wandb", run, cells) == f"wandb sync {run}/wandb/offline-run-*"
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    runs = {found["name"]: found for found in map(wandb_run, files)}
    assert len(files) == len(runs) == 4
    first = runs["hedgehog:map=softmax / gpt / wikitext2 / seed 0"]
    assert {key: first["config"][key] for key in parameters(cells[0])} == parameters(cells[0])
    assert {key: first["summary"][key] for key in measurements(cells[0])} == measurements(cells[0])
    assert [(row["training_step"], row["train/loss"]) for row in first["history"]] == [(0, 4.0), (10, 2.5)]
    assert (first["group"], first["exit_code"], first["files"]) == ("a run", 0, ["record.json"])
    assert runs["relu / gpt / wikitext2 / seed 0"]["exit_code"] == 1
    assert set(runs["a run / report"]["files"]) == set(run_files(run))


def wandb_run(file: Path) -> dict[str, Any]:
    """What a file of W&B's says, which a process of its own has written soon after the run's end."""
    end = time.monotonic() + START_S
    while "exit_code" not in (found := read_wandb(file)):
        assert time.monotonic() < end, f"{file} has no end"
        time.sleep(0.1)
    return found


def read_wandb(file: Path) -> dict[str, Any]:
    """What a file of W&B's says, out of its records."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "files": []}
    for block in log_records(file.read_bytes()):
        message = messages.Record.FromString(block)
        if message.HasField("run"):
            found |= {"name": message.run.display_name, "group": message.run.run_group}
            found["config"] |= {each.key: json.loads(each.value_json) for each in message.run.config.update}
        elif message.HasField("history"):
            items = {each.key or each.nested_key[0]: json.loads(each.value_json) for each in message.history.item}
            found["history"].append(items)
        elif message.HasField("summary"):
            found["summary"] |= {
                each.key or each.nested_key[0]: json.loads(each.value_json) for each in message.summary.update
            }
        elif message.HasField("artifact"):
            found["files"] += [entry.path for entry in message.artifact.manifest.contents]
        elif message.HasField("exit"):
            found["exit_code"] = message.exit.exit_code
    return found


def log_records(content: bytes, block_size: int = 32_768) -> Iterator[bytes]:
    """Records of a file in the log format of LevelDB, after the seven bytes of W&B's own header."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if block_size - at % block_size < 7:
            at += block_size - at % block_size
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def test_wandb_without_a_key_says_what_to_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(run))
    monkeypatch.setenv("NETRC", str(run / "netrc"))
    done = subprocess.run(
        [sys.executable, "-c", f"from hedgebench.results.exchange.wandb import *; WandbTracker(Path({str(run)!r}))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError: no API key; run wandb login, or set WANDB_MODE=offline" in done.stderr
