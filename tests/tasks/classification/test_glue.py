"""Tests of tasks/classification/glue.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from hedgebench.adapters.base import Capability
from hedgebench.results.names import GROUPS
from hedgebench.tasks.base import DataUnavailableError, Sources, Task
from hedgebench.tasks.classification import glue
from hedgebench.tasks.classification.text_classification import TextClassification, TextSettings
from hedgebench.tasks.settings import parse_settings

TASKS = {task.info.name: task for task in vars(glue).values() if isinstance(task, TextClassification)}
PAPER_METRICS = {
    "cola": "matthews", "sst2": "accuracy", "mrpc": "f1", "stsb": "pearson", "qqp": "accuracy", "mnli": "accuracy",
    "qnli": "accuracy", "rte": "accuracy", "wnli": "accuracy",
}  # fmt: skip


def write(sources: Sources, task: TextClassification, leave_out: str = "") -> None:
    """Twenty rows of each split, all alike but for their label."""
    assert sources.mirror is not None
    folder = sources.mirror / "datasets" / task.dataset.repo / task.dataset.config
    folder.mkdir(parents=True)
    labels = [float(i % 5) for i in range(20)] if task.num_classes == 1 else [i % task.num_classes for i in range(20)]
    columns: Mapping[str, Any] = {name: ["some words of a text"] * 20 for name in task.columns}
    for split in task.dataset.splits:
        if split != leave_out:
            frame = pandas.DataFrame({**columns, "label": labels, "idx": range(20)})
            frame.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_there_are_nine_tasks_with_the_papers_metrics() -> None:
    assert {name: task.info.main_metric for name, task in TASKS.items()} == {
        f"glue/{config}": metric for config, metric in PAPER_METRICS.items()
    }


def test_the_group_is_all_of_them_but_wnli() -> None:
    assert {*GROUPS["glue"], "glue/wnli"} == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_declarations_hang_together(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Task)
    assert task.info.main_metric == task.metrics[0]
    assert task.info.needs == {Capability.CLASSIFIER}
    assert task.dataset.splits == ("train", *task.test_splits)
    assert task.info.data == (f"nyu-mll/glue/{name.removeprefix('glue/')}@{task.dataset.revision}",)
    assert [parse_settings(TextSettings, scale.settings) for scale in task.info.scales.values()]


@pytest.mark.parametrize("name", TASKS)
def test_each_reads_its_own_columns_and_scores_every_test_split(name: str, sources: Sources) -> None:
    task = TASKS[name]
    write(sources, task)
    data = task.load({"tokenizer": "byte", "max_length": 64}, sources)
    assert data.shape.num_classes == task.num_classes
    assert [len(split.labels) for split in data.test] == [20] * len(task.test_splits)
    rows = [{"split": split.name, "label": label, "prediction": label} for split in data.test for label in split.labels]
    metrics = [metric for metric in task.score(rows, {}) if not metric.name.startswith(("majority", "constant"))]
    assert [metric.value for metric in metrics] == pytest.approx([1.0] * len(metrics))
    assert all(metric.higher_is_better and metric.unit == "1" for metric in metrics)


def test_mnli_is_measured_matched_and_mismatched() -> None:
    rows = [
        {"split": split, "label": 2, "prediction": prediction}
        for split, prediction in (("validation_matched", 2), ("validation_mismatched", 0))
    ]
    assert {metric.name: metric.value for metric in glue.MNLI.score(rows, {})} == {
        "accuracy": 1.0,
        "majority_accuracy": 1.0,
        "accuracy_mismatched": 0.0,
        "majority_accuracy_mismatched": 1.0,
    }


def test_a_missing_split_is_named(sources: Sources) -> None:
    write(sources, glue.QNLI, leave_out="train")
    with pytest.raises(DataUnavailableError, match="qnli has validation but no train"):
        glue.QNLI.identify({}, sources)


def test_a_missing_configuration_is_named(sources: Sources) -> None:
    with pytest.raises(DataUnavailableError, match="there is no folder qqp"):
        glue.QQP.identify({}, sources)


@pytest.mark.parametrize(
    ("name", "train", "held_out", "test"), [("glue/cola", 7696, 855, 1043), ("glue/stsb", 5175, 574, 1500)]
)
def test_real_splits_have_their_known_sizes(
    name: str, train: int, held_out: int, test: int, real_mirror: Path, sources: Sources
) -> None:
    data = TASKS[name].load({"tokenizer": "byte", "max_length": 8}, replace(sources, mirror=real_mirror))
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test[0].labels)) == (train, held_out, test)
