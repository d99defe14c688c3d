from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Callable
from typing import Any

from hedgebench.results.record import CurvePoint, Metric, Record
from hedgebench.results.report.cells import PackedCells, pack_cells, preview

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


def unpacked(packed: PackedCells, part: str = "cells") -> Any:
    return json.loads(gzip.decompress(base64.b64decode(packed[0][part])))


def test_a_cell_comes_back_as_it_went_in(make_record: MakeRecord) -> None:
    record = make_record(seed=3, notes=("fell back",))
    page = unpacked(pack_cells([record], {}))
    (cell,) = page["cells"]
    assert (cell["model"], cell["seed"], cell["value"], cell["shown"]) == ("softmax", 3, 20, "20.00 ± 0.25")
    assert cell["metrics"] == [["perplexity", "", 20, 0.25, 100, "1", False, "ok"]]
    assert page["shared"][cell["settings"]] == {"train.lr": 0.01, "train.betas": "0.9, 0.999"}
    assert page["shared"][cell["kernels"]] == [["evaluate", "chunk (torch)"]]
    assert ["rows of test", "100"] in page["shared"][cell["data"]]
    assert cell["notes"] == ["fell back"]


def test_what_cells_share_is_kept_once(make_record: MakeRecord) -> None:
    records = [make_record(model, seed=seed) for model in ("a", "b") for seed in range(5)]
    records.insert(3, make_record("c", settings={"train.lr": 1.0}))
    page = unpacked(pack_cells(records, {}))
    assert len(page["shared"]) == 5
    assert len({cell["settings"] for cell in page["cells"]}) == 2


def test_numbers_have_six_digits_but_counts_all_of_theirs(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    values = (1 / 3, 22_861_442.0, math.nan, math.inf, None)
    record = make_record(metrics=tuple(make_metric(f"m{i}", value) for i, value in enumerate(values)))
    (cell,) = unpacked(pack_cells([record], {}))["cells"]
    assert [metric[2] for metric in cell["metrics"]] == [0.333333, 22861442, "nan", "inf", None]


def test_long_curves_are_thinned_from_their_last_point_and_curves_of_parts_left_out(make_record: MakeRecord) -> None:
    long = [CurvePoint(step, "validation", "loss", float(step)) for step in range(250)]
    short = [CurvePoint(step, "train", "loss", 1.5) for step in range(3)]
    record = make_record(curves=(*long, *short, CurvePoint(1, "validation", "kl/layer 0/head 1", 1.0)))
    first, second = unpacked(pack_cells([record], {}), "curves")[record.cell_id]
    assert first == ["loss", "train", [0, 1, 2], [1.5, 1.5, 1.5], 1]
    assert second[:2] == ["loss", "validation"]
    assert (second[2][-3:], len(second[2]), second[4]) == ([243, 246, 249], 84, 3)


def test_what_does_not_fit_is_left_out_and_named_but_never_a_cell(make_record: MakeRecord) -> None:
    record = make_record(curves=tuple(CurvePoint(step, "train", "loss", 1.0) for step in range(9)))
    samples = {record.cell_id: [{"row": "1"}]}
    whole = pack_cells([record], samples)
    assert (sorted(whole[0]), whole[1]) == (["cells", "curves", "samples"], [])
    least = pack_cells([record], samples, limit=0)
    assert (list(least[0]), least[1]) == (["cells"], ["training curves", "predictions"])
    assert pack_cells([make_record()], {}, limit=0)[1] == []


def test_a_preview_is_short_text() -> None:
    rows = preview({"row": i, "logits": [0.5] * 500, "text": "a" if i else "b" * 500} for i in range(100))
    assert [row["row"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert max(len(value) for row in rows for value in row.values()) == 400
    assert rows[0]["text"].endswith("b…")


def test_packing_is_the_same_every_time(showcase: list[Record]) -> None:
    assert pack_cells(showcase, {}) == pack_cells(showcase, {})
