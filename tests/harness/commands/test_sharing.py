"""`bench export` and `bench import` as commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hedgebench.results.store import RunStore

Bench = Callable[..., Any]
DATA = Path(__file__).parents[2] / "results" / "data"
LM_EVAL = DATA / "lm_eval-0.4.13.json"
PUBLISHED = Path(__file__).parents[3] / "results" / "published" / "hedgehog-small"


@pytest.fixture
def run() -> Path:
    """Nine cells of a published run that have scores, without what is computed from its records."""
    Path("run/cells").mkdir(parents=True)
    paths = sorted((PUBLISHED / "cells").iterdir())
    for path in [path for path in paths if json.loads(path.read_text())["task"] == "associative_recall"][:9]:
        shutil.copy(path, "run/cells")
    return Path("run")


def test_a_run_goes_through_parquet_and_compares_as_itself(bench: Bench, run: Path) -> None:
    assert bench("export", run, "--format", "parquet", "-o", "run.parquet").code == 0
    taken = bench("import", "run.parquet", "-o", "again")
    assert taken.code == 0
    assert "9 records from 1 files; report: again/report.html" in taken.err
    assert RunStore(Path("again")).records() == RunStore(run).records()
    assert bench("compare", run, "again").code == 0


def test_records_of_every_version_and_lm_evals_results_become_one_run(bench: Bench) -> None:
    versions = sorted(DATA.glob("record-v*.json"))
    assert bench("import", *versions, DATA / "lm_eval-0.4.13.json", "-o", "out").code == 0
    tasks = [record.task for record in RunStore(Path("out")).records().records]
    assert sorted(tasks) == ["lm_eval/tiny_choice", "lm_eval/tiny_text", *["throughput"] * len(versions)]
    assert "lm_eval-0.4.13.json" in json.loads(Path("out/manifest.json").read_text())["imported"]
    assert Path("out/leaderboard.csv").read_text().count("example/tiny-model") == 4


def test_lm_evals_format_is_a_folder_of_files(bench: Bench, run: Path) -> None:
    assert bench("export", run, "--format", "lm-eval", "-o", "lm_eval").code == 0
    files = sorted(Path("lm_eval").glob("*/results_*.json"))
    models = {(record.model, record.backbone) for record in RunStore(run).records().records}
    assert len(files) == len(models)
    assert bench("import", *files, "-o", "back").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "run", "--format", "parquet"), "--format parquet needs --output"),
        (("export", "run", "--format", "mlflow", "-o", "x"), "takes no --output"),
        (("export", "nowhere", "--format", "tensorboard"), "is not a run's folder"),
        (("import", "nowhere.json", "-o", "out"), "cannot read nowhere.json: No such file"),
        (("import", "text.json", "-o", "out"), "cannot import text.json: it is not JSON: Expecting value"),
        (("import", "newer.json", "-o", "out"), "cannot import newer.json: schema_version is 99, newer than this"),
        (("import", "list.json", "-o", "out"), "cannot import list.json: a record is a JSON object, not list"),
        (("import", "text.parquet", "-o", "out"), "text.parquet"),
        (("import", "numbers.parquet", "-o", "out"), "its column record holds 1; expected the JSON of a record"),
        (("import", LM_EVAL, "odd.json", "-o", "out"), "cannot import odd.json: record.environment.device is"),
        (("import", LM_EVAL, "named.json", "-o", "out"), "cell id '../named' cannot be a file name"),
    ],
)
def test_bad_input_is_exit_code_2_and_leaves_nothing(
    bench: Bench, run: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name, text in {"text.json": "x", "newer.json": '{"schema_version": 99}', "list.json": "[]"}.items():
        Path(name).write_text(text)
    Path("text.parquet").write_text("x")
    pq.write_table(pa.table({"record": [1]}), "numbers.parquet")
    odd = json.loads(LM_EVAL.read_text())
    odd["config"]["device"] = {"a": 1}
    Path("odd.json").write_text(json.dumps(odd))
    named = json.loads((DATA / "record-v1.json").read_text())
    Path("named.json").write_text(json.dumps({**named, "cell_id": "../named"}))
    answer = bench(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not Path("out").exists()
