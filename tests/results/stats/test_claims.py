"""Claims: known answers, intervals against independent formulas, and how often an interval holds the true value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from hedgebench.results.names import UnknownNameError
from hedgebench.results.record import Metric
from hedgebench.results.stats.claims import Effect, MeasuredClaim, ModelSeeds, judge, measure
from hedgebench.results.stats.contrasts import UndefinedContrastError, difference, gap_closed, ordered, recovered
from hedgebench.results.stats.scores import SampleScores, sample_scores

HEDGEHOG, ELU, SOFTMAX = [20.0, 20.6, 20.3, 19.9], [25.1, 25.9, 25.3, 25.4], [18.4, 18.9, 18.6, 18.5]
VALUES = {"hedgehog": HEDGEHOG, "elu": ELU, "softmax": SOFTMAX}
GAP = gap_closed("hedgehog", "elu", "softmax", higher_is_better=False)
GAIN = difference("hedgehog", "elu", higher_is_better=True)


def scores_of(name: str, value: float, rows: Sequence[Mapping[str, Any]]) -> SampleScores:
    found = sample_scores(Metric(name, value, "1", None, None, len(rows)), rows)
    assert found is not None
    return found


def means(values: np.ndarray) -> SampleScores:
    return scores_of("accuracy", float(np.mean(values)), [{"accuracy": float(value)} for value in values])


def perplexity(nats: np.ndarray, tokens: np.ndarray) -> SampleScores:
    rows = [{"nll_nats": float(n), "tokens": int(t)} for n, t in zip(nats, tokens, strict=True)]
    return scores_of("perplexity", math.exp(nats.sum() / tokens.sum()), rows)


def effect(value: float, stderr: float = 1.0) -> Effect:
    return Effect("a over b", value, 1.0, (stderr**2, 0.0, 0.0), math.inf, 5, 100)


def test_a_difference_of_values_has_the_interval_of_a_paired_t_test() -> None:
    measured = measure(difference("hedgehog", "elu", higher_is_better=False), [VALUES])
    expected: Any = stats.ttest_rel(ELU, HEDGEHOG)
    assert measured.value == pytest.approx(np.mean(ELU) - np.mean(HEDGEHOG))
    assert measured.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert measured.p_value(0) == pytest.approx(float(expected.pvalue))
    assert measured.stderr == pytest.approx(np.std(np.subtract(ELU, HEDGEHOG), ddof=1) / 2)
    assert (round(measured.freedom, 6), measured.seeds, measured.documents) == (3, 4, 0)


def test_the_standard_error_of_a_ratio_is_that_of_a_narrow_interval() -> None:
    measured = measure(recovered("hedgehog", "softmax", False), [VALUES])
    low, high = measured.interval(0.9)
    assert (high - low) / 2 / stats.t.ppf(0.55, measured.freedom) == pytest.approx(measured.stderr, rel=1e-3)


@pytest.mark.parametrize("contrast", [GAP, recovered("hedgehog", "softmax", False), recovered("elu", "softmax", True)])
def test_the_ends_of_a_ratios_interval_are_where_a_t_test_of_the_linear_sum_rejects(contrast: Any) -> None:
    measured = measure(contrast, [VALUES])
    for end in measured.interval(0.02):
        assert measured.p_value(end) == pytest.approx(0.02)
        sums = [
            sum(weight * VALUES[m][seed] for m, weight in contrast.top.items())
            - end * sum(weight * VALUES[m][seed] for m, weight in contrast.bottom.items())
            for seed in range(4)
        ]
        expected: Any = stats.ttest_1samp(sums, 0)
        assert expected.pvalue == pytest.approx(0.02)


def test_the_error_over_documents_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(3)
    one = rng.random(300)
    other = one - 0.05 + rng.normal(0, 0.1, 300)
    measured = measure(GAIN, [{"hedgehog": [means(one)] * 2, "elu": [means(other)] * 2}])
    expected: Any = stats.ttest_rel(one, other)
    assert measured.value == pytest.approx(float((one - other).mean()))
    assert measured.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=0.04)
    assert (round(measured.freedom, 6), measured.documents) == (299, 300)


def test_a_perplexity_is_that_of_all_tokens_and_not_a_mean_over_documents() -> None:
    tokens = np.array([10, 1_000, 50])
    models = {"a": tokens * np.array([3.0, 2.0, 2.5]), "b": tokens * np.array([4.0, 2.2, 2.5])}
    seeds = {name: [perplexity(nats, tokens)] * 3 for name, nats in models.items()}
    measured = measure(difference("a", "b", higher_is_better=False), [seeds])
    assert measured.value == pytest.approx(
        math.exp(models["b"].sum() / tokens.sum()) - math.exp(models["a"].sum() / tokens.sum())
    )


@pytest.mark.parametrize(("name", "independent"), [("matthews", matthews_corrcoef), ("f1", f1_score)])
def test_matthews_and_f1_are_contrasted_from_their_counts(name: str, independent: Any) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 200)
    answers = {m: np.where(rng.random(200) < right, labels, 1 - labels) for m, right in (("x", 0.8), ("softmax", 0.9))}
    seeds = {}
    for model, given in answers.items():
        rows = [{"label": int(a), "prediction": int(b)} for a, b in zip(labels, given, strict=True)]
        seeds[model] = [scores_of(name, float(independent(labels, given)), rows)] * 3
    measured = measure(recovered("x", "softmax", higher_is_better=True), [seeds])
    values = {model: float(independent(labels, given)) for model, given in answers.items()}
    assert measured.value == pytest.approx(100 * values["x"] / values["softmax"])
    low, high = measured.interval()
    assert low < measured.value < high < low + 60


def test_over_tasks_the_percentage_is_the_ratio_of_sums_and_errors_add() -> None:
    other = {"hedgehog": [0.5, 0.7], "softmax": [0.9, 0.8]}
    tasks = [{"hedgehog": [0.6, 0.64], "softmax": [0.7, 0.72]}, other]
    measured = measure(recovered("hedgehog", "softmax", higher_is_better=True), tasks)
    assert measured.value == pytest.approx(100 * (0.62 + 0.6) / (0.71 + 0.85))
    gains = [measure(difference("hedgehog", "softmax", True), [task]) for task in tasks]
    both = measure(difference("hedgehog", "softmax", True), tasks)
    assert both.value == pytest.approx((gains[0].value + gains[1].value) / 2)
    assert both.covariance[0] == pytest.approx((gains[0].covariance[0] + gains[1].covariance[0]) / 4)
    once = {name: [0.5] for name in other}
    for some in ([tasks[0], once], [once, tasks[0]]):
        fewer = measure(difference("hedgehog", "softmax", True), some)
        assert (fewer.seeds, fewer.interval()) == (1, (-math.inf, math.inf))


def test_one_seed_decides_nothing() -> None:
    measured = measure(GAIN, [{"hedgehog": [means(np.full(50, 0.9))], "elu": [means(np.full(50, 0.1))]}])
    assert measured.value == pytest.approx(0.8)
    assert measured.interval() == (-math.inf, math.inf)
    assert [judged.verdict for judged in judge([MeasuredClaim("gain", (measured,))])] == ["undecided"]


def test_identical_models_differ_by_nothing_and_recover_all() -> None:
    same = [means(np.random.default_rng(seed).random(40)) for seed in range(3)]
    task = {"hedgehog": same, "elu": same, "softmax": same}
    gain = measure(GAIN, [task])
    assert (gain.value, gain.interval(), gain.p_value(0)) == (0, (0, 0), 1)
    share = measure(recovered("hedgehog", "softmax", higher_is_better=True), [task])
    assert share.interval() == pytest.approx((100, 100))
    claims = [MeasuredClaim("better", (gain,)), *(MeasuredClaim("share", (share,), at) for at in (99, 100, 101))]
    assert [one.verdict for one in judge(claims)] == ["undecided", "holds", "undecided", "does not hold"]


def test_a_metric_without_variance_has_an_exact_interval() -> None:
    task: Mapping[str, ModelSeeds] = {"hedgehog": [1.0, 1.0, 1.0], "elu": [0.17, 0.17, 0.17]}
    measured = measure(GAIN, [task])
    assert measured.interval() == pytest.approx((0.83, 0.83))
    assert (measured.p_value(0), measured.p_value(0.83)) == (0, 1)


def test_a_ratio_to_softmax_at_zero_is_refused_and_one_near_zero_is_undecided() -> None:
    share = recovered("hedgehog", "softmax", higher_is_better=True)
    with pytest.raises(UndefinedContrastError, match="the denominator is 0; it must be above 0"):
        measure(share, [{"hedgehog": [0.5, 0.6], "softmax": [0.0, 0.0]}])
    near_zero = measure(share, [{"hedgehog": [0.5, 0.6], "softmax": [0.01, 0.05]}])
    assert near_zero.interval() == (-math.inf, math.inf)
    assert near_zero.p_value(99) > 0.05
    with pytest.raises(UndefinedContrastError, match="hedgehog in percent of softmax: a metric is not finite"):
        measure(share, [{"hedgehog": [math.nan, 0.6], "softmax": [0.5, 0.5]}])


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ({"hedgehog": [1.0]}, UnknownNameError, "unknown measured model 'elu'"),
        ({"hedgehog": [1.0], "elu": [1.0, 2.0]}, ValueError, "seeds of each model: {'hedgehog': 1, 'elu': 2}"),
        ({"hedgehog": [], "elu": []}, ValueError, "at least one"),
        ({"hedgehog": [means(np.ones(3))], "elu": [1.0]}, ValueError, "not all measured on the same documents"),
        (
            {"hedgehog": [means(np.ones(3))], "elu": [means(np.ones(4))]},
            ValueError,
            "not all measured on the same documents",
        ),
    ],
)
def test_models_that_do_not_belong_together_are_refused(
    task: Mapping[str, ModelSeeds], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(GAIN, [task])


def test_a_claim_holds_fails_or_is_undecided_by_its_interval() -> None:
    claims = [MeasuredClaim("", (effect(value),), 10) for value in (20.0, 0.0, 11.0)]
    judged = judge(claims)
    assert [one.verdict for one in judged] == ["holds", "does not hold", "undecided"]
    assert [one.claim for one in judged] == claims
    assert judged[2].low < 10 < judged[2].high


def test_verdicts_follow_holm_and_not_bonferroni() -> None:
    claims = [MeasuredClaim("", (effect(value),)) for value in (2.2, 3.0, 2.5, 0.1)]
    assert [one.verdict for one in judge(claims[:1])] == ["holds"]
    assert [one.verdict for one in judge(claims[:3])] == ["holds", "holds", "holds"]
    raw = 2 * stats.norm.sf(2.2)
    assert judge(claims[:3])[0].p_value == pytest.approx(max(raw, 4 * stats.norm.sf(2.5)))
    assert 3 * raw > 0.05


def test_an_interval_leaves_out_the_threshold_exactly_if_the_adjusted_p_value_is_small() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        claims = [MeasuredClaim("", tuple(map(effect, rng.normal(2, 2, 1 + i % 3).tolist()))) for i in range(6)]
        for one in judge(claims):
            assert (one.low <= 0 <= one.high) == (one.p_value >= 0.05) == (one.verdict == "undecided")


def test_an_order_holds_by_its_weakest_pair_and_fails_by_its_surest_reversal() -> None:
    strong, weak, reversed_ = effect(9), effect(2.1), effect(-2.3)
    (holds,) = judge([MeasuredClaim("order", (strong, weak))])
    assert (holds.verdict, holds.effect) == ("holds", weak)
    assert holds.p_value == pytest.approx(2 * stats.norm.sf(2.1))
    (fails,) = judge([MeasuredClaim("order", (strong, reversed_))])
    assert (fails.verdict, fails.effect) == ("does not hold", reversed_)
    assert fails.p_value == pytest.approx(4 * stats.norm.sf(2.3))
    (open_,) = judge([MeasuredClaim("order", (strong, weak, reversed_, strong))])
    assert (open_.verdict, open_.effect) == ("undecided", reversed_)
    with pytest.raises(ValueError, match="claim empty has no contrast"):
        judge([MeasuredClaim("empty", ())])


def test_an_order_of_models_is_judged_from_their_scores() -> None:
    rng = np.random.default_rng(6)
    base = rng.random(200)
    shifts = {"softmax": 0.0, "hedgehog": 0.02, "elu": 0.2}
    task = {m: [means(base - s + rng.normal(0, 0.01, 200)) for _ in range(3)] for m, s in shifts.items()}
    for models, verdict in (
        (("softmax", "hedgehog", "elu"), "holds"),
        (("hedgehog", "softmax", "elu"), "does not hold"),
    ):
        effects = tuple(measure(pair, [task]) for pair in ordered(models, higher_is_better=True))
        assert [one.verdict for one in judge([MeasuredClaim("order", effects)])] == [verdict]


@pytest.mark.parametrize(
    ("seed_spread", "noise", "lowest", "highest"), [(0.03, 0.02, 0.90, 0.97), (0.0, 0.3, 0.95, 1.0)]
)
def test_intervals_hold_the_true_value_about_as_often_as_they_say(
    seed_spread: float, noise: float, lowest: float, highest: float
) -> None:
    """300 worlds of three models, three seeds and 60 documents; in each, 68.6 percent of a gap is closed."""
    rng = np.random.default_rng(7)
    nats = np.log([20.8, 25.6, 18.6])[:, None, None]
    tokens = rng.integers(200, 4_000, 60)
    hits = 0
    for _ in range(300):
        documents = rng.normal(0, 0.4, 60)
        documents -= documents @ tokens / tokens.sum()
        trained = nats + rng.normal(0, seed_spread, (3, 3, 1)) + documents + rng.normal(0, noise, (3, 3, 60))
        task = {
            model: [perplexity(seed * tokens, tokens) for seed in seeds]
            for model, seeds in zip(("hedgehog", "elu", "softmax"), trained, strict=True)
        }
        low, high = measure(GAP, [task]).interval()
        hits += low <= 100 * 4.8 / 7.0 <= high
    assert lowest <= hits / 300 <= highest
