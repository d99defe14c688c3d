import math

import pytest
import torch

from hedgebench.kernels.maps.fixed import CosformerMap, EluMap, ExpMap, PerformerMap, ReluMap, orthogonal_gaussian


def test_elu_is_one_at_zero_and_linear_above() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)
    assert EluMap(1, 3)(x).flatten().tolist() == pytest.approx([math.exp(-1), 1.0, 3.0])


def test_relu_cuts_off_negatives() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)
    assert ReluMap(1, 3)(x).flatten().tolist() == [0.0, 0.0, 2.0]


def test_exp_multiplies_by_its_temperature() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)
    assert ExpMap(1, 3, t=2).features(x).flatten().tolist() == pytest.approx([math.exp(-2), 1.0, math.exp(4)])


def test_cosformer_scores_are_rectified_products_times_a_cosine_of_distance() -> None:
    torch.manual_seed(0)
    length = 20
    feature_map = CosformerMap(2, 8, length=length)
    q, k = torch.randn(2, 3, 2, 12, 8, dtype=torch.float64)
    positions = torch.arange(5, 17)
    scores = feature_map(q, positions) @ feature_map(k, positions).mT
    cosine = torch.cos(math.pi / 2 * (positions[:, None] - positions).double() / length)
    torch.testing.assert_close(scores, (q.relu() @ k.relu().mT) * cosine)


def test_cosformer_counts_positions_from_one() -> None:
    features = CosformerMap(1, 1, length=2)(torch.ones(1, 1, 2, 1), torch.arange(2))
    half = math.sqrt(0.5)
    torch.testing.assert_close(features.squeeze(), torch.tensor([[half, half], [0.0, 1.0]]))


@pytest.mark.parametrize("positions", [None, torch.tensor([4]), torch.tensor([-1])])
def test_cosformer_rejects_positions_it_was_not_built_for(positions: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="cosformer"):
        CosformerMap(1, 2, length=4)(torch.ones(1, 1, 1, 2), positions)


def test_cosformer_rejects_an_empty_length() -> None:
    with pytest.raises(ValueError, match="got 0"):
        CosformerMap(1, 2, length=0)


def test_performer_rows_are_orthogonal_within_a_block_with_gaussian_norms() -> None:
    dim = 16
    rows = orthogonal_gaussian(40, dim, seed=3).double()
    for block in torch.split(rows, dim):
        gram = block @ block.mT
        assert (gram - gram.diagonal().diag()).abs().max() < 1e-5
    mean_square = orthogonal_gaussian(4000, dim, seed=4).square().sum(-1).mean()
    # A squared norm has mean dim and variance 2·dim; four standard errors.
    assert abs(float(mean_square) - dim) < 4 * math.sqrt(2 * dim / 4000)


def test_performer_projection_follows_its_seed_and_is_shared_by_queries_and_keys() -> None:
    query, key = (PerformerMap(2, 8, feature_dim=20, role=role, seed=5) for role in ("query", "key"))
    assert torch.equal(query.projection, key.projection)
    assert not torch.equal(query.projection, PerformerMap(2, 8, feature_dim=20, seed=6).projection)
    assert "projection" in query.state_dict()


def test_performer_converges_to_the_softmax_kernel_within_its_standard_error() -> None:
    torch.manual_seed(0)
    dim, features = 8, 8000
    q, k = 0.7 * torch.randn(2, 1, 1, 10, dim, dtype=torch.float64)
    feature_map = PerformerMap(1, dim, feature_dim=features)
    terms = feature_map.features(q)[..., :, None, :] * feature_map.features(k)[..., None, :, :] * features
    exact = (q @ k.mT / math.sqrt(dim)).exp()
    # Orthogonal rows have no more variance than the independent ones this error is for.
    error = (terms.mean(-1) - exact).abs() / (terms.std(-1) / math.sqrt(features))
    assert error.max() < 4.5
    few = PerformerMap(1, dim, feature_dim=80)
    coarse = (few.features(q) @ few.features(k).mT - exact).square().mean()
    assert (terms.mean(-1) - exact).square().mean() < coarse / 10


def test_elu_keeps_small_features_in_bfloat16() -> None:
    """ELU alone is near -1 there, and one more loses all but its last bits."""
    x = torch.linspace(-8, 3, 200, dtype=torch.bfloat16)[None, None, None]
    exact = torch.where(x.double() > 0, x.double() + 1, x.double().exp())
    error = ((EluMap(1, 200)(x).double() - exact) / exact).abs().max()
    assert error < 2**-8


def test_elu_has_finite_gradients_at_large_inputs() -> None:
    x = torch.tensor([-200.0, 0.0, 3.0, 200.0])[None, None, None].requires_grad_()
    torch.autograd.backward(EluMap(1, 4)(x).sum())
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.0, 1.0, 1.0, 1.0]
