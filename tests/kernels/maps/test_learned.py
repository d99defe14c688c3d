import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.maps.learned import HedgehogMap, T2RMap, TaylorMap


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_hedgehog_starts_as_exp_of_plus_and_minus_x(x: Tensor) -> None:
    feature_map = HedgehogMap(3, 8)
    assert torch.equal(feature_map(x), torch.cat([x, -x], dim=-1))
    assert feature_map.log_space
    assert torch.equal(feature_map.features(x), torch.cat([x.exp(), (-x).exp()], dim=-1))


def test_hedgehog_exp_max_takes_each_half_below_one(x: Tensor) -> None:
    expected = [(x - x.amax(-1, keepdim=True)).exp(), (x.amin(-1, keepdim=True) - x).exp()]
    feature_map = HedgehogMap(3, 8, map="exp_max")
    assert not feature_map.log_space
    torch.testing.assert_close(feature_map(x), torch.cat(expected, dim=-1))


def test_hedgehog_softmax_sums_to_one_in_each_half(x: Tensor) -> None:
    features = HedgehogMap(3, 8, map="softmax")(x)
    torch.testing.assert_close(features, torch.cat([x.softmax(-1), (-x).softmax(-1)], dim=-1))


def test_hedgehog_softmax_joint_sums_to_one_over_both_halves(x: Tensor) -> None:
    features = HedgehogMap(3, 8, map="softmax_joint")(x)
    torch.testing.assert_close(features, torch.cat([2 * x, -2 * x], dim=-1).softmax(-1))


@pytest.mark.parametrize("variant", ["exp", "exp_max", "softmax"])
def test_hedgehog_without_negation_is_the_first_half(x: Tensor, variant: str) -> None:
    half = HedgehogMap(3, 8, map=variant, negate=False)
    assert half.feature_dim == 8
    torch.testing.assert_close(half(x), HedgehogMap(3, 8, map=variant)(x)[..., :8])


def test_hedgehog_applies_each_heads_own_matrix_and_bias(x: Tensor) -> None:
    feature_map = HedgehogMap(3, 8, bias=True).double()
    assert feature_map.bias is not None
    with torch.no_grad():
        feature_map.weight.normal_()
        feature_map.bias.normal_()
    y = torch.stack([x[:, h] @ feature_map.weight[h] + feature_map.bias[h] for h in range(3)], dim=1)
    torch.testing.assert_close(feature_map(x), torch.cat([y, -y], dim=-1))


def test_hedgehog_is_trained_through_both_halves(x: Tensor) -> None:
    feature_map = HedgehogMap(3, 8, bias=True).double()
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(feature_map, {"weight": w}, (x,)), feature_map.weight
    )


def test_a_narrow_hedgehog_keeps_the_first_coordinates_and_a_wide_one_adds_unit_directions(x: Tensor) -> None:
    narrow, wide = HedgehogMap(3, 8, feature_dim=4, negate=False), HedgehogMap(3, 8, feature_dim=12)
    assert torch.equal(narrow(x), x[..., :4])
    assert wide.feature_dim == 24
    assert torch.equal(wide(x)[..., :8], x)
    torch.testing.assert_close(wide.weight.norm(dim=1), torch.ones(3, 12))


def test_hedgehog_of_llama_2_7b_holds_the_papers_share_of_parameters() -> None:
    per_layer = 2 * sum(parameter.numel() for parameter in HedgehogMap(32, 128).parameters())
    assert 32 * per_layer == 33_554_432
    assert round(100 * 33_554_432 / (6_738_415_616 + 33_554_432), 4) == 0.4955


def test_a_random_start_differs_between_heads_sides_and_seeds_and_stays_in_its_bounds() -> None:
    start = [
        HedgehogMap(2, 16, init="random", role=role, seed=seed).weight for role in ("query", "key") for seed in (0, 1)
    ]
    assert all(not torch.equal(a, b) for a, b in combinations(start, 2))
    assert not torch.equal(start[0][0], start[0][1])
    assert all(weight.abs().max() <= 16**-0.5 for weight in start)
    torch.testing.assert_close(start[0].std(), torch.tensor(16**-0.5 / 3**0.5), rtol=0.1, atol=0)


def test_hedgehog_rejects_an_unknown_start() -> None:
    with pytest.raises(ValueError, match="unknown hedgehog init 'randm'; did you mean random"):
        HedgehogMap(1, 4, init="randm")


def test_hedgehog_rejects_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match=r"'sofmax'; did you mean softmax.*: exp, exp_max, softmax, softmax_joint"):
        HedgehogMap(3, 8, map="sofmax")


def test_t2r_is_relu_of_a_projection_that_differs_by_role(x: Tensor) -> None:
    query, key = (T2RMap(3, 8, feature_dim=6, role=role, seed=1).double() for role in ("query", "key"))
    expected = torch.stack([x[:, h] @ query.weight[h] + query.bias[h] for h in range(3)], dim=1).relu()
    torch.testing.assert_close(query(x), expected)
    assert not torch.equal(query.weight, key.weight)
    assert torch.equal(query.weight, T2RMap(3, 8, feature_dim=6, seed=1).double().weight)
    assert query.weight.abs().max() <= 8**-0.5
    assert query.bias.abs().max() <= 8**-0.5


def test_taylor_scores_are_the_expansion_of_exp() -> None:
    q, k = torch.randn(2, 1, 2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    feature_map = TaylorMap(2, 8)
    z = q @ k.mT / math.sqrt(8)
    torch.testing.assert_close(feature_map(q) @ feature_map(k).mT, 1 + z + z.square() / 2)
    assert feature_map.feature_dim == 1 + 8 + 36
    assert not list(feature_map.parameters())


def test_taylor_with_a_feature_dim_projects_first(x: Tensor) -> None:
    feature_map = TaylorMap(3, 8, feature_dim=4).double()
    assert feature_map.weight is not None
    assert feature_map.feature_dim == 1 + 4 + 10
    assert feature_map.weight.shape == (3, 8, 4)
    torch.testing.assert_close(feature_map(x), TaylorMap(3, 4)(x @ feature_map.weight))


def test_taylor_takes_the_root_of_one_half_in_the_type_of_its_input() -> None:
    x = torch.ones(1, 1, 1, 2, dtype=torch.float64) * 2**0.25
    assert TaylorMap(1, 2)(x)[0, 0, 0, 3:].tolist() == pytest.approx([0.5**0.5, 1.0, 0.5**0.5], rel=1e-15)
