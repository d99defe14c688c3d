"""Measures of attention maps: known answers, and scipy's for ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from hedgebench.adapters.base import AttentionMaps, UnsupportedError
from hedgebench.tasks.fidelity.measures import MEASURES, MIN_KEYS, TEACHER_MEASURES, TOP_KEYS, compare_maps

KEYS = 16


def scipys(x: Tensor, y: Tensor) -> float:
    correlation: Any = stats.spearmanr(x, y)
    return float(correlation.statistic)


def softmax_map(seed: int = 0, causal: bool = True, keys: int = KEYS) -> Tensor:
    """Softmax weights [1 2 n n] of random scores."""
    scores = torch.randn(1, 2, keys, keys, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    if causal:
        scores = scores.masked_fill(torch.ones(keys, keys, dtype=torch.bool).triu(1), -math.inf)
    return scores.softmax(-1)


def compare_weights(weights: Tensor, softmax: Tensor) -> dict[str, Tensor]:
    """Measures of weights against softmax weights, whose logarithms are the products but for a constant of each row."""
    return compare_maps(AttentionMaps(weights, softmax, softmax.log()))


def test_softmax_against_itself_is_perfect() -> None:
    p = softmax_map()
    found = compare_weights(p, p)
    assert set(found) == set(MEASURES)
    for name, expected in (("kl", 0.0), ("monotonicity", 1.0), ("violations", 0.0), ("overlap", 1.0)):
        torch.testing.assert_close(found[name], torch.full((2,), expected, dtype=torch.float64))
    torch.testing.assert_close(found["entropy"], found["softmax_entropy"])


def test_uniform_weights_have_the_entropy_of_their_keys_and_no_order() -> None:
    p = softmax_map(causal=False)
    found = compare_weights(torch.full_like(p, 1 / KEYS), p)
    torch.testing.assert_close(found["entropy"], torch.full((2,), math.log(KEYS), dtype=torch.float64))
    torch.testing.assert_close(found["monotonicity"], torch.zeros(2, dtype=torch.float64))
    expected = (p * (p * KEYS).log()).sum(-1).mean((0, 2))
    torch.testing.assert_close(found["kl"], expected)


def test_weights_in_the_opposite_order_violate_every_step() -> None:
    p = softmax_map(causal=False)
    found = compare_weights(1 / p, p)
    torch.testing.assert_close(found["monotonicity"], -torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found["violations"], torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found["overlap"], torch.zeros(2, dtype=torch.float64))


def test_monotonicity_is_scipys_rank_correlation_over_the_keys_a_query_sees() -> None:
    p, w = softmax_map(1), softmax_map(2).sqrt().round(decimals=1) + 0.1
    w = w.masked_fill(p == 0, 0)
    found = compare_weights(w, p)["monotonicity"]
    for head in range(2):
        rows = [scipys(w[0, head, i, : i + 1], p[0, head, i, : i + 1]) for i in range(MIN_KEYS - 1, KEYS)]
        assert found[head].item() == pytest.approx(sum(rows) / len(rows))


def test_rows_need_not_sum_to_one() -> None:
    p, w = softmax_map(1), softmax_map(2)
    found, scaled = compare_weights(w, p), compare_weights(7 * w, p)
    for name in MEASURES:
        torch.testing.assert_close(found[name], scaled[name])


def test_a_query_without_weights_costs_much_but_is_a_number() -> None:
    p = softmax_map()
    found = compare_weights(torch.zeros_like(p), p)
    assert torch.isfinite(found["kl"]).all()
    assert (found["kl"] > 20).all()


def test_texts_too_short_for_ranks_are_refused() -> None:
    short = softmax_map(keys=MIN_KEYS - 1)
    with pytest.raises(ValueError, match="no query sees 8 keys"):
        compare_weights(short, short)


def test_the_order_is_that_of_the_products_even_where_softmax_has_no_weight_left() -> None:
    products = torch.linspace(-400, 0, KEYS, dtype=torch.float64).expand(1, 1, KEYS, KEYS)
    softmax = products.softmax(-1).float()
    assert (softmax == 0).any()
    weights = (products / 100).exp()
    rising, falling = (compare_maps(AttentionMaps(w, softmax, products)) for w in (weights, weights.flip(-1)))
    for found, order, falls in ((rising, 1, 0), (falling, -1, 1)):
        assert found["monotonicity"].item() == pytest.approx(order)
        assert found["violations"].item() == falls


def test_entropy_tells_spiky_rows_from_flat_ones() -> None:
    flat, spiky = (softmax_map(3).log() * factor for factor in (1, 8))
    found = [compare_maps(AttentionMaps(s.softmax(-1), flat.softmax(-1), flat))["entropy"] for s in (flat, spiky)]
    assert (found[1] < 0.5 * found[0]).all()


def test_overlap_counts_the_keys_that_both_put_first() -> None:
    products = torch.arange(KEYS, dtype=torch.float64).expand(1, 1, KEYS, KEYS)
    weights = products.roll(4, -1)  # keys 4 to 11 of the order have the largest weights of the last eight
    assert compare_maps(AttentionMaps(weights, products.softmax(-1), products))["overlap"].item() == 0.5


def test_negative_weights_are_refused_even_where_rows_sum_to_one() -> None:
    p = softmax_map(causal=False)
    weights = p.clone()
    weights[..., 0] -= 2
    weights[..., 1] += 2
    with pytest.raises(UnsupportedError, match=r"an attention weight is -\d.*zero or more"):
        compare_weights(weights, p)


def test_only_divergences_that_rounding_makes_count_as_none() -> None:
    p = softmax_map(causal=False)
    assert compare_weights(p * (1 + 1e-9), p)["kl"].tolist() == [0, 0]
    too_much = compare_maps(AttentionMaps(p, p / 2, p.log()))["kl"]  # no distribution: the sum is negative
    assert (too_much < -0.3).all()


def test_keys_that_tie_for_the_last_places_share_them() -> None:
    products = torch.arange(KEYS, dtype=torch.float64).expand(1, 1, KEYS, KEYS)
    softmax = products.softmax(-1)

    def overlap(weights: list[float]) -> float:
        w = torch.tensor(weights, dtype=torch.float64).expand(1, 1, KEYS, KEYS)
        return compare_maps(AttentionMaps(w, softmax, products))["overlap"].item()

    assert overlap([1.0] * KEYS) == pytest.approx(TOP_KEYS / KEYS)
    for order in (1, -1):  # wherever the ties stand
        tied = [1.0] * 4 + [2.0] * 8 + [3.0] * 4
        expected = {1: (4 + 4 * 4 / 8) / 8, -1: 4 * 4 / 8 / 8}[order]
        assert overlap(tied[::order]) == pytest.approx(expected)


def test_keys_without_weight_are_no_top_keys() -> None:
    products = torch.arange(KEYS, dtype=torch.float64).expand(1, 1, KEYS, KEYS)
    weights = torch.zeros(1, 1, KEYS, KEYS, dtype=torch.float64)
    assert compare_maps(AttentionMaps(weights, products.softmax(-1), products))["overlap"].item() == 0
    weights[..., -2:] = 0.5
    assert compare_maps(AttentionMaps(weights, products.softmax(-1), products))["overlap"].item() == 2 / TOP_KEYS


def test_products_that_tie_do_not_make_softmax_unlike_itself() -> None:
    products = torch.arange(KEYS, dtype=torch.float64).div(3, rounding_mode="floor").expand(1, 1, KEYS, KEYS)
    found = compare_maps(AttentionMaps(products.softmax(-1), products.softmax(-1), products))
    assert found["overlap"].item() == pytest.approx(1)


def test_a_teacher_has_a_divergence_and_an_entropy_of_its_own() -> None:
    p, w, t = softmax_map(1), softmax_map(2), softmax_map(3)
    found = compare_maps(AttentionMaps(w, p, p.log(), t))
    assert set(found) == {*MEASURES, *TEACHER_MEASURES}
    against = compare_weights(w, t)
    torch.testing.assert_close(found["kl_from_teacher"], against["kl"])
    torch.testing.assert_close(found["teacher_entropy"], against["softmax_entropy"])
    torch.testing.assert_close(found["kl"], compare_weights(w, p)["kl"])
