"""Tests of tasks/classification/any_data.py and own_labels.py: GLUE's rows give GLUE's numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Adapter, Settings
from hedgebench.results.record import Metric
from hedgebench.tasks.base import BackboneTokenizer, Sources, Task
from hedgebench.tasks.classification.any_data import CLASSIFICATION
from hedgebench.tasks.classification.glue import COLA, MRPC, STSB
from hedgebench.tasks.classification.own_labels import read_labels
from hedgebench.tasks.data.own_rows import OwnData

BYTES: Settings = {"max_length": 48, "tokenizer": "byte", "train_rows": 40, "test_rows": 60}


class Sums:
    """Gives each class, or each value, what the bytes of a row add up to."""

    device = torch.device("cpu")

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(inputs) if attention_mask is None else attention_mask
        sums = (inputs * mask).sum(1, keepdim=True).double()
        return torch.cos(sums * torch.arange(1, self.outputs + 1))


def measure(task: Task, settings: Settings, sources: Sources) -> list[Metric]:
    data = task.load(settings, sources)
    adapter = cast(Adapter, Sums(data.shape.num_classes or 1))
    rows = json.loads(json.dumps(task.predict(adapter, data, settings)))
    return task.score(rows, settings)


def write(folder: Path, **splits: Sequence[Mapping[str, Any]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


@pytest.fixture(params=["tiny", "real"])
def glue_mirror(request: pytest.FixtureRequest, sources: Sources) -> Sources:
    """Rows in the place of GLUE's, and the real ones."""
    if request.param == "real":
        return replace(sources, mirror=request.getfixturevalue("real_mirror"))
    assert sources.mirror is not None
    for task in (COLA, MRPC, STSB):
        folder = sources.mirror / "datasets" / task.dataset.repo / task.dataset.config
        folder.mkdir(parents=True)
        for split, rows in (("train", 90), ("validation", 70)):
            labels = np.arange(rows) % 7 / 2 if task is STSB else np.arange(rows) // 3 % 2
            texts = {column: [f"{split} {column} {i}" for i in range(rows)] for column in task.columns}
            frame = pandas.DataFrame({**texts, "label": labels.astype(np.float32 if task is STSB else np.int64)})
            frame.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return sources


@pytest.mark.parametrize(
    ("glue", "text", "metric"),
    [(COLA, "sentence", "matthews"), (MRPC, "sentence1+sentence2", "f1"), (STSB, "sentence1+sentence2", "")],
)
def test_the_rows_of_glue_have_the_measures_and_the_training_rows_of_glue(
    glue_mirror: Sources, glue: Any, text: str, metric: str
) -> None:
    there = glue_mirror
    config = glue.info.name.partition("/")[2]
    named = {"dataset": "nyu-mll/glue", "config": config, "text": text, "metric": metric, "test_split": "validation"}
    settings = {**BYTES, **named}
    theirs = {metric.name: metric for metric in measure(glue, BYTES, there)}
    own = {metric.name: metric for metric in measure(CLASSIFICATION, settings, there)}
    assert {name: own[name] for name in theirs} == theirs
    assert ("mse" in own) == (glue is STSB)
    data, other = CLASSIFICATION.load(settings, there), glue.load(BYTES, there)
    assert data.shape == other.shape
    for mine, its in ((data.train, other.train), (data.validation, other.validation)):
        assert mine is not None
        assert np.array_equal(mine.inputs, its.inputs)
        assert np.array_equal(mine.targets, its.targets)
    identity = CLASSIFICATION.identify(settings, there)
    assert CLASSIFICATION.decided(settings, identity).info.main_metric == glue.info.main_metric


@pytest.mark.parametrize(
    ("train", "test", "kind", "found"),
    [
        (["b", "a", "c"], ["c"], "auto", ("classes", [2], ("a", "b", "c"))),
        ([3, 1, 2], [2, 3], "auto", ("classes", [1, 2], ("1", "2", "3"))),
        ([0, 1, 2], [2, 0], "auto", ("classes", [2, 0], ())),
        ([True, False], [True], "auto", ("classes", [1], ())),
        (["10", "9"], ["9"], "auto", ("classes", [0], ("9", "10"))),
        ([0.5, 2.0], [1.5], "auto", ("numbers", [1.5], ())),
        (["0.5", "2"], ["1.5"], "auto", ("numbers", [1.5], ())),
        ([1, 5], [3], "numbers", ("numbers", [3.0], ())),
    ],
)
def test_labels_are_what_their_column_holds(
    sources: Sources, tmp_path: Path, train: Any, test: Any, kind: str, found: Any
) -> None:
    folder = write(tmp_path / "own", train=labelled(*train), test=labelled(*test))
    labels = read_labels(OwnData(file=folder).find(sources), "label", kind)
    assert (labels.kind, labels.values["test"], labels.names) == found


def test_the_feature_of_a_column_names_its_classes(sources: Sources, tmp_path: Path) -> None:
    import datasets

    names = ["no", "yes", "perhaps"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"] * 10, "label": [1, 0] * 10}, features=features)
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / "own" / f"{split}.parquet")
    settings = {**BYTES, "file": str(tmp_path / "own")}
    assert CLASSIFICATION.load(settings, sources).shape.labels == ("no", "yes", "perhaps")
    assert CLASSIFICATION.identify(settings, sources).details["classes"] == 3


@pytest.mark.parametrize(
    ("train", "test", "changed", "message"),
    [
        (["a", None], ["a"], {}, "1 rows of the split train have no label"),
        (["a", "b"], ["c"], {}, r"the label \['c'\], which no training row has"),
        (["a", "a"], ["a"], {}, "which has the one class 'a'; allowed: two or more"),
        ([0.5, 1.5], [0.5], {"kind": "classes"}, "which holds 0.5, 1.5; allowed for classes: texts"),
        (["a", "b"], ["a"], {"kind": "numbers"}, "which holds 'a', 'b'; allowed for kind=numbers: numbers"),
        ([["a"], ["b"]], [["a"]], {}, r"which holds \['a'\], \['b'\]; allowed for classes"),
        (["a", "b"], ["a"], {"kind": "number"}, "unknown kind 'number'; did you mean numbers"),
        (["a", "b", "c"], ["a"], {"metric": "matthews"}, "metric 'matthews' cannot be taken of 3 classes"),
        (["a", "b"], ["a"], {"metric": "mse"}, "metric is 'mse', which is of numbers"),
        (["a", "b"], ["a"], {"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean accuracy"),
        (["a", "b"], ["a"], {"label": "lable"}, "given as label, 'lable'; did you mean label"),
        (["a", "b"], ["a"], {"text": "txt"}, "given as text, 'txt'; did you mean text"),
        (["a", "b"], ["a"], {"text": "a+b+c"}, "it takes one column, or the two of a pair as a"),
        ([0, 1], [0], {"text": "label"}, "text is the column 'label' of own in split train, which holds int64"),
    ],
)
def test_what_no_model_can_learn_is_told_before_anything_runs(
    sources: Sources, tmp_path: Path, train: Any, test: Any, changed: Any, message: str
) -> None:
    folder = write(tmp_path / "own", train=labelled(*train), test=labelled(*test))
    with pytest.raises(ValueError, match=message):
        CLASSIFICATION.identify({**BYTES, "file": folder, **changed}, sources)


def test_rows_without_a_text_are_refused(sources: Sources, tmp_path: Path) -> None:
    rows = [*labelled("a", "b"), {"text": None, "label": "a"}]
    folder = write(tmp_path / "own", train=rows, test=labelled("a"))
    with pytest.raises(ValueError, match="of own in split train, where 1 rows have no text"):
        CLASSIFICATION.identify({**BYTES, "file": folder}, sources)


def test_a_table_of_comma_separated_values_is_a_regression_if_its_labels_have_fractions(
    sources: Sources, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        rows = "".join(f'"text, {i}",{i / 4}\n' for i in range(20))
        (tmp_path / f"{split}.csv").write_text(f"review,stars\n{rows}", encoding="utf-8")
    settings = {**BYTES, "file": str(tmp_path), "text": "review", "label": "stars"}
    metrics = {metric.name: metric for metric in measure(CLASSIFICATION, settings, sources)}
    assert list(metrics) == ["pearson", "spearman", "mse"]
    predicted = CLASSIFICATION.predict(cast(Adapter, Sums(1)), CLASSIFICATION.load(settings, sources), settings)
    squares = [(row["prediction"] - row["label"]) ** 2 for row in predicted]
    assert metrics["mse"].value == pytest.approx(np.mean(squares))
    assert metrics["mse"].stderr == pytest.approx(np.std(squares, ddof=1) / len(squares) ** 0.5)


def test_changed_rows_are_other_data_and_are_read_anew(sources: Sources, tmp_path: Path) -> None:
    train = labelled(*"ab" * 10)
    folder = write(tmp_path / "own", train=train, test=labelled("a", "b"))
    settings = {**BYTES, "file": folder}
    before = CLASSIFICATION.identify(settings, sources)
    write(tmp_path / "own", test=labelled("b", "b"))
    assert CLASSIFICATION.identify(settings, sources).fingerprint != before.fingerprint
    assert list(CLASSIFICATION.load(settings, sources).test[0].labels) == [1, 1]


def test_a_single_file_is_for_models_that_are_trained_already(sources: Sources, tmp_path: Path) -> None:
    file = tmp_path / "own" / "rows.jsonl"
    write(file.parent, rows=labelled("a", "b"))
    settings = {**BYTES, "file": str(file)}
    there = replace(sources, tokenizer=BackboneTokenizer("tiny", "x"))
    assert CLASSIFICATION.load(settings, there).train is None
    assert CLASSIFICATION.decided(settings, None).info.recipes == ("zero-shot",)
    with pytest.raises(ValueError, match=r"rows.jsonl has no training split that is read"):
        CLASSIFICATION.identify(settings, sources)
