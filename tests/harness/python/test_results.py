"""Results as frames, tables, verdicts and plots."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

import hedgebench
from hedgebench.harness.config import FLAGS
from hedgebench.harness.python.results import Results
from hedgebench.harness.python.runs import RunOptions
from hedgebench.results.record import Failure, Metric
from hedgebench.results.store import RunStore, StoreError


def test_a_row_for_each_metric_with_typed_columns(finished: RunStore) -> None:
    frame = hedgebench.load_results(finished.root).to_pandas()
    records = finished.records().records
    assert len(frame) == sum(len(record.metrics) for record in records)
    assert set(frame.model) == {"softmax", "elu"}
    for column, kind in {"value": "float64", "stderr": "float64", "n": "Int64", "seed": "Int64"}.items():
        assert frame[column].dtype == kind
    assert {str(frame[column].dtype) for column in ("higher_is_better", "is_main")} == {"boolean"}
    main = frame[frame.is_main].set_index("model")["value"]
    assert main["elu"] == next(r.main().value for r in records if r.model == "elu")  # type: ignore[union-attr]


def test_coordinates_of_sweeps_are_columns_and_failed_cells_rows(finished: RunStore) -> None:
    record = finished.records().records[0]
    points = tuple(
        Metric("prefill_ms", float(n), "ms", False, None, 3, {"seq_len": n, "mode": "prefill"}) for n in (64, 128)
    )
    failure = Failure("Killed", "by <somebody>")
    failed = replace(record, cell_id="f", status="error", metrics=(), error=failure)
    results = Results((replace(record, metrics=points), failed), finished.root, lambda _: ())
    frame = results.to_pandas()
    assert frame.seq_len.dtype == "Int64"
    assert frame.seq_len.tolist()[:2] == [64, 128]
    assert frame.iloc[2][["status", "error"]].tolist() == ["error", "by <somebody>"]
    assert pd.isna(frame.iloc[2]["metric"])
    assert results.failed == (failed,)
    assert "error: Killed: by &lt;somebody&gt;" in results._repr_html_()
    assert "1 failed" in repr(results)


def test_the_leaderboard_is_that_of_the_csv(finished: RunStore) -> None:
    results = hedgebench.load_results(finished.root)
    board = results.leaderboard()
    csv = pd.read_csv(finished.root / "leaderboard.csv")
    assert list(board.columns) == list(csv.columns)
    assert board.model.tolist() == ["softmax", "elu"]
    assert board.value.tolist() == csv[csv.metric == "accuracy"].value.tolist()
    page = results._repr_html_()
    assert page.index("<th>softmax</th>") < page.index("<th>elu</th>")
    assert "associative_recall<br>accuracy" in page


def test_a_comparison_pairs_predictions_and_shows_as_markdown(finished: RunStore) -> None:
    results = hedgebench.load_results(finished.root)
    same = results.compare(finished.root)
    assert same.exit_code == 0
    assert {finding.verdict for finding in same.findings} == {"unchanged"}
    assert "**no regression**" in same._repr_markdown_()
    worse = replace(results.records[0], metrics=tuple(
        replace(m, value=(m.value or 0) + 1.0) for m in results.records[0].metrics))  # fmt: skip
    assert results.compare(Results((worse,), finished.root, lambda _: ()), {"accuracy": 1}).exit_code == 1


def test_plots_show_as_images(finished: RunStore) -> None:
    plots = hedgebench.load_results(finished.root).plots()
    assert [plot.kind for plot in plots[:1]] == ["overview"]
    assert plots[0].figure.axes
    assert plots._repr_html_().count('src="data:image/svg+xml;base64,') == len(plots)
    assert len(repr(plots).splitlines()) == len(plots)


def test_the_cells_of_a_plan_are_some_of_the_folder(finished: RunStore) -> None:
    extra = replace(finished.records().records[0], cell_id="another")
    finished.write_record(extra)
    assert len(Results.of_plan(finished.root).records) == 2
    assert len(hedgebench.load_results(finished.root).records) == 3


def test_the_predictions_of_a_plan_are_found_from_another_folder(
    finished: RunStore, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not finished.root.is_absolute()
    results = Results.of_plan(finished.root)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert all(list(results.samples(record)) for record in results.records)


def test_several_runs_are_one_result_and_no_run_is_an_error(finished: RunStore) -> None:
    assert len(hedgebench.load_results(finished.root, finished.root).records) == 2
    with pytest.raises(StoreError, match="not a run's folder"):
        hedgebench.load_results(".")
    with pytest.raises(TypeError, match="needs the folder of a run"):
        hedgebench.load_results()


def test_run_takes_every_option_of_the_command_line() -> None:
    flags = {flag.replace("-", "_") for flag in FLAGS}
    assert set(RunOptions.__annotations__) == flags - {"models", "tasks"} | {"config", "quiet"}
