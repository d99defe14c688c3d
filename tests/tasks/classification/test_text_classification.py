"""Tests of tasks/classification/text_classification.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Adapter, Capability, ModelShape
from hedgebench.tasks.base import INPUT, BackboneTokenizer, Sources, Task
from hedgebench.tasks.classification.glue import COLA
from hedgebench.tasks.classification.text_classification import TextClassification, TextSettings
from hedgebench.tasks.data.sources import DatasetId
from hedgebench.tasks.settings import as_settings

BYTES = TextSettings(max_length=16, tokenizer="byte")
DATA = DatasetId("org/letters", "pairs", "0" * 40, ("train", "validation"))
PAIRS = TextClassification(replace(COLA.info, name="letters/pairs"), DATA, ("first", "second"), ("f1", "accuracy"))
VALUES = replace(PAIRS, num_classes=1, metrics=("pearson",))


def table(rows: int, first: str = "r") -> pandas.DataFrame:
    """Rows whose first text names them and is as long as it takes, and whose label says whether it is odd."""
    numbers = np.arange(rows)
    return pandas.DataFrame({
        "first": [f"{first}{i:04d}" + "x" * (i % 5) for i in numbers],
        "second": ["yes" if i % 3 else "" for i in numbers],
        "label": numbers % 2,
    })  # fmt: skip


def write(sources: Sources, tables: dict[str, pandas.DataFrame], dataset: DatasetId = DATA) -> None:
    assert sources.mirror is not None
    folder = sources.mirror / "datasets" / dataset.repo / dataset.config
    folder.mkdir(parents=True, exist_ok=True)
    for split, frame in tables.items():
        frame.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def letters(sources: Sources) -> Sources:
    write(sources, {"train": table(120), "validation": table(30, "v")})
    return sources


def read(examples: Any) -> list[str]:
    """The first texts of examples in bytes."""
    rows = zip(examples.inputs, examples.attention_mask, strict=True)
    return ["".join(chr(token) for token in ids[mask] if token < 256)[:5] for ids, mask in rows]


class ParityModel:
    """Says whether the number in the first text is odd, where `right` allows."""

    device = torch.device("cpu")
    capabilities = frozenset({Capability.CLASSIFIER})

    def __init__(self, right: Callable[[int], bool] = lambda number: True) -> None:
        self.right = right

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        numbers = [int("".join(map(chr, row[1:5]))) for row in inputs.tolist()]
        odd = torch.tensor([number % 2 == int(self.right(number)) for number in numbers])
        return torch.stack([1.0 - odd.float(), odd.float()], dim=1)


class LengthModel:
    """A regression on the number of real tokens."""

    device = torch.device("cpu")

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(inputs) if attention_mask is None else attention_mask
        return mask.sum(1, keepdim=True).float()


def test_it_is_a_task() -> None:
    assert isinstance(PAIRS, Task)


def test_shapes_types_and_sizes(letters: Sources) -> None:
    data = PAIRS.load(as_settings(BYTES), letters)
    assert data.shape == ModelShape(context_length=16, vocab_size=257, num_classes=2)
    assert data.train is not None
    assert data.train.inputs.dtype == data.train.targets.dtype == np.int32
    assert data.train.attention_mask is not None
    assert data.train.inputs.shape == data.train.attention_mask.shape == (108, 13)
    assert (data.train.inputs[~data.train.attention_mask] == 0).all()


def test_a_tenth_of_the_training_rows_is_held_out_and_each_row_is_in_one_part(letters: Sources) -> None:
    data = PAIRS.load(as_settings(BYTES), letters)
    train, held_out = read(data.train), read(data.validation)
    assert (len(train), len(held_out)) == (108, 12)
    assert sorted(train + held_out) == [f"r{i:04d}" for i in range(120)]
    assert held_out != [f"r{i:04d}" for i in range(108, 120)]


def test_labels_stay_with_their_texts(letters: Sources) -> None:
    data = PAIRS.load(as_settings(BYTES), letters)
    for examples in (data.train, data.validation):
        assert examples is not None
        assert [int(text[1:]) % 2 for text in read(examples)] == examples.targets.tolist()


def test_parts_are_the_same_each_time_and_fewer_training_rows_change_nothing_else(letters: Sources) -> None:
    whole = PAIRS.load(as_settings(BYTES), letters)
    fewer = PAIRS.load(as_settings(replace(BYTES, train_rows=20)), replace(letters, cache=letters.cache / "other"))
    assert read(fewer.train) == read(whole.train)[:20]
    assert read(fewer.validation) == read(whole.validation)
    assert fewer.test[0].texts == whole.test[0].texts


def test_at_most_a_thousand_rows_are_held_out(sources: Sources) -> None:
    write(sources, {"train": table(12_000).astype({"label": int}), "validation": table(3)})
    data = PAIRS.load(as_settings(BYTES), sources)
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (11_000, 1_000)


def test_too_few_rows_to_hold_any_out_have_no_validation(sources: Sources) -> None:
    write(sources, {"train": table(9), "validation": table(3)})
    data = PAIRS.load(as_settings(BYTES), sources)
    assert data.validation is None
    assert data.train is not None
    assert len(data.train) == 9


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_rows_come_in_the_order_of_the_data_whatever_the_batch_size(batch_size: int, letters: Sources) -> None:
    settings = as_settings(replace(BYTES, batch_size=batch_size))
    rows = PAIRS.predict(cast(Adapter, ParityModel()), PAIRS.load(settings, letters), settings)
    assert [row["row"] for row in rows] == list(range(30))
    assert [row[INPUT][0][:5] for row in rows] == [f"v{i:04d}" for i in range(30)]
    assert [row["prediction"] for row in rows] == [row["label"] for row in rows] == [i % 2 for i in range(30)]
    assert rows[1]["logits"] == [0.0, 1.0]
    assert rows[1]["split"] == "validation"


def test_a_model_that_is_wrong_on_every_third_row(letters: Sources) -> None:
    settings = as_settings(BYTES)
    adapter = cast(Adapter, ParityModel(lambda number: number % 3 > 0))
    rows = PAIRS.predict(adapter, PAIRS.load(settings, letters), settings)
    metrics = {metric.name: metric for metric in PAIRS.score(rows, settings)}
    assert list(metrics) == ["f1", "accuracy", "majority_accuracy", "constant_f1"]
    assert metrics["majority_accuracy"].value == 0.5
    assert metrics["constant_f1"].value == pytest.approx(2 / 3)
    assert metrics["accuracy"].value == pytest.approx(2 / 3)
    assert metrics["f1"].value == pytest.approx(2 / 3)
    assert all(metric.n == 30 and metric.stderr for metric in metrics.values())


def test_further_metrics_are_added_once(letters: Sources) -> None:
    settings = as_settings(replace(BYTES, more_metrics="matthews, accuracy"))
    rows = PAIRS.predict(cast(Adapter, ParityModel()), PAIRS.load(settings, letters), settings)
    assert [metric.name for metric in PAIRS.score(rows, settings)] == [
        "f1",
        "accuracy",
        "matthews",
        "majority_accuracy",
        "constant_f1",
    ]
    with pytest.raises(ValueError, match="unknown metric 'mathews'; did you mean matthews"):
        PAIRS.identify({**settings, "more_metrics": "mathews"}, letters)


def test_a_further_metric_that_does_not_fit_is_refused_before_anything_is_trained(
    letters: Sources, agreement: str
) -> None:
    three = replace(PAIRS, num_classes=3, metrics=("accuracy",))
    for task, name in ((three, "f1"), (three, "matthews"), (VALUES, "accuracy")):
        with pytest.raises(ValueError, match=f"metric '{name}' cannot be taken of"):
            task.identify(as_settings(replace(BYTES, more_metrics=name)), letters)
    settings = as_settings(replace(BYTES, more_metrics=f"evaluate:{agreement}:binary"))
    assert PAIRS.load(settings, letters).shape.num_classes == 2
    three.identify(settings, letters)
    with pytest.raises(ValueError, match="Target is multiclass"):
        three.load(settings, letters)


def test_scores_need_nothing_that_is_dropped_from_the_records(letters: Sources) -> None:
    settings = as_settings(BYTES)
    rows = PAIRS.predict(cast(Adapter, ParityModel()), PAIRS.load(settings, letters), settings)
    kept = [{key: value for key, value in row.items() if key != INPUT} for row in rows]
    assert PAIRS.score(kept, settings) == PAIRS.score(rows, settings)


def test_a_regression_has_values_for_targets_and_predictions(sources: Sources) -> None:
    frame = table(30)
    frame["label"] = frame["first"].str.len() + frame["second"].str.len() + 1.5
    write(sources, {"train": frame, "validation": frame})
    settings = as_settings(BYTES)
    data = VALUES.load(settings, sources)
    assert data.shape.num_classes == 1
    assert data.train is not None
    assert data.train.targets.dtype == np.float32
    rows = VALUES.predict(cast(Adapter, LengthModel()), data, settings)
    assert rows[0] | {INPUT: None} == {
        "split": "validation", "row": 0, "label": 6.5, "prediction": 6.0, "logits": [6.0], INPUT: None
    }  # fmt: skip
    (metric,) = VALUES.score(rows, settings)
    assert metric.name == "pearson"
    assert metric.value == pytest.approx(1.0)


def test_limit_keeps_the_first_rows_of_each_test_split(sources: Sources) -> None:
    two = replace(
        PAIRS, dataset=replace(DATA, splits=("train", "near", "far")), test_splits={"near": "", "far": "_far"}
    )
    write(sources, {"train": table(20), "near": table(8, "n"), "far": table(6, "f")})
    settings = as_settings(BYTES)
    rows = two.predict(cast(Adapter, ParityModel()), two.load(settings, sources, limit=2), settings)
    assert [row[INPUT][0] for row in rows] == ["n0000", "n0001x", "f0000", "f0001x"]
    metrics = {metric.name: metric.n for metric in two.score(rows, settings)}
    names = ("f1", "accuracy", "majority_accuracy", "constant_f1")
    assert metrics == {f"{name}{suffix}": 2 for suffix in ("", "_far") for name in names}


def test_a_part_of_the_test_rows_is_a_sample_in_the_order_of_the_data(letters: Sources) -> None:
    (split,) = PAIRS.load(as_settings(replace(BYTES, test_rows=10)), letters).test
    assert len(split.places) == 10
    assert list(split.places) == sorted(set(split.places)) != list(range(10))
    assert [int(text[0][1:5]) for text in split.texts] == list(split.places)
    assert [place % 2 for place in split.places] == list(split.labels)


def test_the_second_cell_tokenizes_nothing(letters: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = as_settings(replace(BYTES, tokenizer="bpe:300"))
    first = PAIRS.load(settings, letters)
    monkeypatch.setattr(
        "hedgebench.tasks.classification.text_classification.encode_texts", lambda *_: pytest.fail("tokenized again")
    )
    again = PAIRS.load(settings, letters)
    assert first.train is not None
    assert again.train is not None
    assert (first.train.inputs == again.train.inputs).all()
    assert [ids.tolist() for ids in first.test[0].tokens] == [ids.tolist() for ids in again.test[0].tokens]
    with pytest.raises(pytest.fail.Exception, match="tokenized again"):
        PAIRS.load({**settings, "max_length": 12}, letters)


def test_the_identity_follows_the_data_and_the_tokenizer(letters: Sources) -> None:
    identity = PAIRS.identify(as_settings(BYTES), letters)
    assert identity.id == "org/letters/pairs"
    assert identity.splits == {"train": 120, "validation": 30}
    assert identity.details["tokenizer"] == "byte"
    write(letters, {"train": table(121)})
    assert PAIRS.identify(as_settings(BYTES), letters).fingerprint != identity.fingerprint


def test_a_backbone_s_tokenizer_frames_the_pairs(letters: Sources, bert_folder: Path) -> None:
    own = replace(letters, tokenizer=BackboneTokenizer("tiny-bert", "abc", bert_folder))
    settings = as_settings(replace(BYTES, tokenizer="backbone"))
    assert PAIRS.identify(settings, own).details["tokenizer"] == "tiny-bert"
    data = PAIRS.load(settings, own)
    cls, sep, unknown = 15, 16, 1
    assert data.shape.vocab_size == 17
    assert [ids.tolist() for ids in data.test[0].tokens[:2]] == [
        [cls, unknown, sep, sep],
        [cls, unknown, sep, unknown, sep],
    ]


def test_without_training_rows_no_training_split_is_needed(sources: Sources) -> None:
    write(sources, {"validation": table(5)})
    settings = as_settings(replace(BYTES, train_rows=0))
    assert PAIRS.identify(settings, sources).splits == {"validation": 5}
    data = PAIRS.load(settings, sources)
    assert data.train is None
    assert data.validation is None
    with pytest.raises(ValueError, match="bpe:300 needs training text"):
        PAIRS.identify({**settings, "tokenizer": "bpe:300"}, sources)


def test_a_length_that_holds_no_pair_is_refused(letters: Sources) -> None:
    with pytest.raises(ValueError, match="max_length is 4; allowed: 8 or more"):
        PAIRS.identify({"max_length": 4}, letters)
