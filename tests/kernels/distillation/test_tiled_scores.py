"""Which way of scoring is chosen, and that every way gives the probabilities of the naive form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.distillation import tiles as distillation_tiles
from hedgebench.kernels.distillation.call import DistillationCall
from hedgebench.kernels.distillation.tiled_scores import FactoredScores, SteepScores, tiled_scores
from hedgebench.kernels.linear.naive import linear_attention_weights
from hedgebench.kernels.state import EMPTY_LOG


def log_features(n: int, m: int, rise: float) -> tuple[Tensor, Tensor]:
    """Gives queries [2 3 n 4] and keys [2 m 4], the last key standing `rise` nats above the first."""
    generator = torch.Generator().manual_seed(n)
    queries = torch.randn(2, 3, n, 4, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, m, 4, generator=generator, dtype=torch.float64)
    keys[:, -1] = keys[:, 0] + rise
    return queries, keys


@pytest.mark.parametrize(
    ("causal", "rise", "expected"),
    [(True, 39.0, FactoredScores), (True, 41.0, SteepScores), (False, 500.0, FactoredScores)],
)
def test_only_a_causal_call_whose_keys_rise_too_far_takes_the_long_way(
    causal: bool, rise: float, expected: type
) -> None:
    queries, keys = (tensor.float() for tensor in log_features(9, 9, rise))
    assert type(tiled_scores(queries, keys, causal=causal, eps=0.0, log_space=True)) is expected


def test_padding_before_the_first_token_is_not_what_keys_rise_from() -> None:
    queries, keys = log_features(9, 9, 0.0)
    keys[:, :3] = EMPTY_LOG
    assert type(tiled_scores(queries, keys, causal=True, eps=0.0, log_space=True)) is FactoredScores


@pytest.mark.parametrize("rise", [0.0, 300.0, 400.0])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (17, 17), (33, 40), (100, 100)])
def test_probabilities_of_a_tile_are_those_of_the_naive_form(n: int, m: int, causal: bool, rise: float) -> None:
    queries, keys = log_features(n, m, rise)
    start = n // 3
    tile = tiled_scores(queries, keys, causal=causal, eps=0.0, log_space=True).probabilities(start, n)
    expected = linear_attention_weights(queries, keys[:, None], causal=causal, log_space=True, exact=True)
    torch.testing.assert_close(torch.unflatten(tile, 1, (3, -1)), expected[:, :, start:], rtol=1e-10, atol=1e-14)


def test_a_tile_ends_at_the_last_key_it_sees() -> None:
    queries, keys = log_features(20, 25, 0.0)
    assert tiled_scores(queries, keys, causal=True, eps=0.0, log_space=True).probabilities(4, 8).shape == (2, 12, 13)


def test_eps_joins_the_total_of_plain_features_only() -> None:
    queries, keys = torch.ones(1, 1, 2, 1), torch.ones(1, 2, 1)
    plain = tiled_scores(queries, keys, causal=False, eps=2.0, log_space=False).probabilities(0, 2)
    logs = tiled_scores(queries.log(), keys.log(), causal=False, eps=2.0, log_space=True).probabilities(0, 2)
    assert plain.flatten().tolist() == [0.25] * 4
    assert logs.flatten().tolist() == [0.5] * 4


@pytest.mark.parametrize(("keys", "features", "expected"), [(256, 16, (8, 256)), (256, 8192, (1, 64))])
def test_tiles_are_smaller_where_keys_or_features_are_many(
    keys: int, features: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[tuple[int, int]] = []

    def noted(part: DistillationCall, scores: Any, gradients: Any, rows: slice) -> tuple[float, float]:
        handled.append((len(part.q), rows.stop - rows.start))
        return 0.0, 0.0

    monkeypatch.setattr(distillation_tiles, "_tile_loss", noted)
    q, k = torch.zeros(8, 1, 256, 4), torch.zeros(8, keys, 4)
    phi_q, phi_k = torch.ones(8, 1, 256, features), torch.ones(8, keys, features)
    call = DistillationCall(q, k, phi_q, phi_k, torch.ones(8, 256), None, True, 1e-6, False, None, False, "torch")
    distillation_tiles.tiled_loss(call, None)
    assert set(handled) == {expected}
    assert sum(heads * rows for heads, rows in handled) == 8 * 256
