from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hedgebench.results.plots.head_divergence import HeadDivergence, by_layer, head_divergences, spread_of_heads
from hedgebench.results.record import CurvePoint, Record

MakeRecord = Callable[..., Record]
Heads = dict[tuple[int, int], float]

FOUR = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 5.0, (1, 1): 8.0}


def points(step: int, heads: Heads, split: str = "validation") -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(step, split, f"attention_kl/layer {i}/head {j}", value) for (i, j), value in heads.items())


def only(records: list[Record]) -> HeadDivergence:
    (models,) = head_divergences(records).values()
    (model,) = models
    return model


def test_before_is_step_0_and_after_is_the_last_step(make_record: MakeRecord) -> None:
    halves = {place: value / 2 for place, value in FOUR.items()}
    curves = (*points(40, halves), *points(0, FOUR), *points(20, {(0, 0): 99.0}))
    model = only([make_record("hedgehog", curves=curves)])
    assert model.label == "hedgehog"
    np.testing.assert_array_equal(model.before, [[1.0, 3.0], [5.0, 8.0]])
    np.testing.assert_array_equal(model.after, [[0.5, 1.5], [2.5, 4.0]])


def test_a_model_that_is_not_distilled_has_no_after_and_softmax_nothing(make_record: MakeRecord) -> None:
    records = [make_record("softmax"), make_record("elu", curves=points(0, FOUR))]
    model = only(records)
    assert (model.label, model.after) == ("elu", None)
    assert head_divergences([make_record("softmax")]) == {}


def test_other_curves_are_not_taken_for_heads(make_record: MakeRecord) -> None:
    names = ("distill attention_kl/layer 0", "attention_kl/layer 0", "distill attention_kl/layer 0/head 0", "loss")
    curves = tuple(CurvePoint(0, "validation", name, 1.0) for name in names)
    assert head_divergences([make_record("hedgehog", curves=(*curves, *points(0, FOUR, "train")))]) == {}


def test_seeds_are_averaged_at_the_last_step_of_each(make_record: MakeRecord) -> None:
    ends = {0: (10, 1.0), 1: (30, 4.0)}
    records = [
        make_record("hedgehog", seed=seed, curves=points(step, {(0, 0): value})) for seed, (step, value) in ends.items()
    ]
    model = only(records)
    assert model.before is None
    np.testing.assert_array_equal(model.after, [[2.5]])


def test_missing_heads_are_left_out_of_the_mean(make_record: MakeRecord) -> None:
    model = only([make_record("hedgehog", curves=points(0, {(0, 0): 1.0, (2, 0): 2.0, (2, 1): 4.0}))])
    assert model.before is not None
    np.testing.assert_array_equal(model.before, [[1.0, np.nan], [np.nan, np.nan], [2.0, 4.0]])
    np.testing.assert_array_equal(by_layer(model.before), [1.0, np.nan, 3.0])
    low, high = spread_of_heads(model.before)
    np.testing.assert_array_equal(low, [1.0, np.nan, 2.0])
    np.testing.assert_array_equal(high, [1.0, np.nan, 4.0])


def test_a_value_that_is_not_finite_is_not_averaged_away(make_record: MakeRecord) -> None:
    seeds = [{(0, 0): 1.0, (0, 1): 2.0, (1, 0): 1.0}, {(0, 0): math.nan, (0, 1): 2.0, (1, 0): 3.0}]
    model = only([make_record("hedgehog", seed=i, curves=points(0, heads)) for i, heads in enumerate(seeds)])
    assert model.before is not None
    np.testing.assert_array_equal(model.before, [[np.inf, 2.0], [2.0, np.nan]])
    np.testing.assert_array_equal(by_layer(model.before), [np.inf, 2.0])
    np.testing.assert_array_equal(spread_of_heads(model.before)[1], [np.nan, 2.0])


def test_tasks_stand_apart_and_the_order_of_records_does_not_matter(make_record: MakeRecord) -> None:
    records = [
        make_record(model, task, curves=points(0, FOUR))
        for task in ("samsum", "wikitext2")
        for model in ("elu", "relu")
    ]
    found = head_divergences(records)
    assert [(where.task, [model.label for model in models]) for where, models in found.items()] == [
        ("samsum", ["elu", "relu"]),
        ("wikitext2", ["elu", "relu"]),
    ]
    assert list(head_divergences(records[::-1])) == list(found)
