"""Tests of results/stats/budget.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hedgebench.results.record import CurvePoint, Metric, Record
from hedgebench.results.stats.budget import SECONDS, TOKENS, Budgets, budgets_of

MakeRecord = Callable[..., Record]


def budgets(*records: Record) -> Budgets:
    models = dict.fromkeys(record.model for record in records)
    found = budgets_of({model: [record for record in records if record.model == model] for model in models})
    assert found is not None
    return found


def changed(record: Record, **values: float) -> Record:
    """The record with other values of some metrics."""
    metrics = (replace(metric, value=values.get(metric.name, metric.value)) for metric in record.metrics)
    return replace(record, metrics=tuple(metrics))


def test_amounts_are_means_over_seeds_with_their_errors(make_trained: MakeRecord) -> None:
    found = budgets(make_trained("softmax", 100, 2.0, 64), make_trained("softmax", 300, 6.0, 64, seed=1))
    of_stage = [("train", name) for name in ("steps", "tokens", "trained_parameters", "seconds")]
    assert found.items == [*of_stage, ("parameters", ""), ("state_bytes", "")]
    amounts = [found.amount("softmax", item) for item in found.items]
    assert amounts == [(200, 100), (20_000, 10_000), (5_000, 0), (4, 2), (6_000, 0), (64, 0)]
    assert found.amount("elu", TOKENS) is None


def test_equal_budgets_are_told_as_such_and_other_sizes_beside(make_trained: MakeRecord) -> None:
    equal = [make_trained(model, 300, seconds, 64) for model, seconds in (("softmax", 1.0), ("elu", 9.0))]
    said = "models were given equal budgets: 300 train steps on 30,000 train tokens"
    assert budgets(*equal).told() == said
    small = changed(make_trained("t2r", 300, 1.0, 64), parameters=5_500)
    assert budgets(*equal, small).told() == f"{said}; parameters from 5,500 (t2r) to 6,000 (softmax, elu)"


def test_unequal_budgets_are_told_with_who_had_least_and_most(make_trained: MakeRecord) -> None:
    notes = ("training stopped early after 100 steps, at validation loss 0.1 of step 100",)
    early = make_trained("softmax", 100, 1.0, 64, notes=notes)
    found = budgets(early, *(make_trained(model, 300, 1.0, 64) for model in ("elu", "exp", "relu", "t2r")))
    assert found.told() == (
        "models were not given equal budgets: train steps from 100 (softmax) to 300 (elu, exp and 2 others); "
        "early stopping in 1 of 5 cells"
    )
    longer = changed(make_trained("elu", 300, 1.0, 64), train_tokens=60_000)
    said = budgets(make_trained("softmax", 300, 1.0, 64), longer).told()
    assert said == "models were not given equal budgets: train tokens from 30,000 (softmax) to 60,000 (elu)"


def test_a_stage_that_a_model_does_not_have_counts_as_no_steps(make_trained: MakeRecord) -> None:
    """Seconds of a teacher that another cell trained are that cell's, and what was only measured took no training."""
    settings = {"train.steps": 300, "distill.steps": 50, "task.steps": 7}
    softmax = make_trained("softmax", 300, 0.0, 64, settings=settings, timings_s={"train": 60.0, "distill": 0.5})
    student = replace(
        make_trained("hedgehog", 300, 0.0, 64),
        settings=settings,
        timings_s={"train": 0.1, "distill": 9.0},
        notes=("train: weights taken from train-0123, made earlier in this run",),
    )
    of_stage = {"distill_steps": 50.0, "distill_tokens": 5_000.0}
    stated = tuple(Metric(name, value, "1", None, None, 1) for name, value in of_stage.items())
    student = replace(student, metrics=student.metrics + stated)
    found = budgets(softmax, student)
    assert found.stages == ("train", "distill")
    assert found.told().endswith("equal budgets: distill steps from 0 (softmax) to 50 (hedgehog)")
    assert [found.amount(model, SECONDS) for model in ("softmax", "hedgehog")] == [(60, None), (69, None)]
    assert [found.amount(model, TOKENS) for model in ("softmax", "hedgehog")] == [(30_000, None), (35_000, None)]
    assert budgets(student).amount("hedgehog", SECONDS) is None


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("validation", "models were given equal steps: 300 train steps; tokens are not in every record"),
        ("train", "whether budgets are equal is not known, as steps are not in every record"),
    ],
)
def test_records_of_earlier_releases_have_their_steps_in_their_validations(
    make_trained: MakeRecord, split: str, said: str
) -> None:
    curves = (CurvePoint(1, "train", "loss", 3.0), CurvePoint(300, split, "loss", 2.0))
    earlier = make_trained("elu", 300, 1.0, 64, metrics=(), curves=curves)
    assert budgets(make_trained("softmax", 300, 1.0, 64), earlier).told() == said


def test_without_training_there_is_no_budget(make_record: MakeRecord, make_trained: MakeRecord) -> None:
    assert budgets_of({"softmax": [make_record(settings={"task.steps": 3})]}) is None
    assert budgets_of({"softmax": [make_trained("softmax", 0, 1.0, 64)]}) is None
