"""What other programs read of our records is what the records say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub.repocard_data import model_index_to_eval_results

from hedgebench.results.exchange.export import export, model_index
from hedgebench.results.names import UnknownNameError
from hedgebench.results.record import Metric, Record, from_json

MakeRecord = Callable[..., Record]


def test_parquet_gives_back_every_record(showcase: list[Record], tmp_path: Path) -> None:
    export(showcase, "parquet", tmp_path / "records.parquet")
    rows = pq.read_table(tmp_path / "records.parquet").to_pylist()
    read = {row["cell_id"]: from_json(json.loads(row["record"])) for row in rows}
    assert read == {record.cell_id: record for record in showcase}
    assert len(rows) == sum(max(1, len(record.metrics)) for record in showcase)
    assert {row["cell_status"] for row in rows} == {"ok", "oom"}


def test_parquet_keeps_its_types_without_any_record(tmp_path: Path) -> None:
    export([], "parquet", tmp_path / "empty.parquet")
    table = pq.read_table(tmp_path / "empty.parquet")
    assert (table.num_rows, str(table.schema.field("metric_value").type)) == (0, "double")


def test_the_hub_reads_the_model_index(showcase: list[Record], tmp_path: Path) -> None:
    export(showcase, "model-index", tmp_path / "index.yaml")
    written = json.loads((tmp_path / "index.yaml").read_text(encoding="utf-8"))
    name, results = model_index_to_eval_results(
        [model for model in written["model-index"] if model["name"] == "softmax (gpt, scratch, smoke)"]
    )
    values = {result.dataset_name: result.metric_value for result in results if result.metric_type == "perplexity"}
    assert name == "softmax (gpt, scratch, smoke)"
    assert values == {"wikitext2": pytest.approx(20.1)}


def test_a_partial_number_says_so(make_record: MakeRecord) -> None:
    (model,) = model_index([make_record(limit=5)])["model-index"]
    assert model["results"][0]["metrics"][0]["name"].endswith("partial: first 5 rows")


def test_other_settings_are_another_model(make_record: MakeRecord) -> None:
    records = [make_record("elu", settings={"train.lr": lr}) for lr in (0.01, 0.02)]
    names = [(model["name"], len(model["results"])) for model in model_index(records)["model-index"]]
    assert names == [("elu (gpt, scratch, smoke)", 1), ("elu (settings 2) (gpt, scratch, smoke)", 1)]


def test_points_of_a_sweep_have_names_of_their_own(make_record: MakeRecord, make_metric: Callable[..., Metric]) -> None:
    points = tuple(make_metric(at={"seq_len": length}) for length in (512, 1024))
    (model,) = model_index([make_record(metrics=points)])["model-index"]
    names = [result["metrics"][0]["name"] for result in model["results"]]
    assert names == [f"perplexity at seq_len={length}, seeds 0" for length in (512, 1024)]


def test_the_hub_gets_finite_numbers_only(make_record: MakeRecord, make_metric: Callable[..., Metric]) -> None:
    assert model_index([make_record(metrics=(make_metric(value=float("nan")),))]) == {"model-index": []}


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown format 'parket'; did you mean parquet\?"):
        export([], "parket", tmp_path / "x")
