from typing import Any

import pytest
import torch

from hedgebench.adapters.mechanisms.declaration import load_attribute
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.maps.feature_map import FeatureMap
from hedgebench.kernels.maps.fixed import EluMap

FEATURE_MAPS = {name: each.feature_map for name, each in mechanisms().items.items() if each.feature_map}
"""Paths of the maps by the name of a mechanism."""

OPTIONS: dict[str, dict[str, Any]] = {"cosformer": {"length": 16}}


def make_feature_map(name: str, heads: int, head_dim: int, **options: Any) -> FeatureMap:
    made: FeatureMap = load_attribute(FEATURE_MAPS[name])(heads, head_dim, **OPTIONS.get(name, {}), **options)
    return made


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_every_map_gives_as_many_features_as_it_says(name: str) -> None:
    feature_map = make_feature_map(name, 3, 8)
    features = feature_map(torch.randn(2, 3, 5, 8), torch.arange(5))
    assert features.shape == (2, 3, 5, feature_map.feature_dim)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_scores_of_a_positive_map_are_never_negative(name: str) -> None:
    torch.manual_seed(0)
    query, key = (make_feature_map(name, 3, 8, role=role) for role in ("query", "key"))
    positions = torch.arange(16)
    phi_q = query.features(torch.randn(2, 3, 16, 8), positions)
    phi_k = key.features(torch.randn(2, 3, 16, 8), positions)
    smallest = float((phi_q @ phi_k.mT).detach().min())
    assert (smallest >= -1e-6) == query.positive


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_features_are_the_exponential_exactly_in_log_space(name: str) -> None:
    feature_map = make_feature_map(name, 2, 8)
    x = torch.randn(1, 2, 5, 8)
    returned = feature_map(x, torch.arange(5))
    expected = returned.exp() if feature_map.log_space else returned
    assert torch.equal(feature_map.features(x, torch.arange(5)), expected)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_a_token_is_mapped_the_same_alone_and_in_a_sequence(name: str) -> None:
    feature_map = make_feature_map(name, 2, 8)
    x = torch.randn(3, 2, 9, 8)
    whole = feature_map(x, torch.arange(9).expand(3, 9))
    alone = feature_map(x[:, :, 6:7], torch.full((3, 1), 6))
    torch.testing.assert_close(alone, whole[:, :, 6:7])


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_half_precision_keeps_its_type_except_for_logarithms(name: str) -> None:
    feature_map = make_feature_map(name, 2, 8)
    features = feature_map(torch.randn(1, 2, 5, 8, dtype=torch.bfloat16), torch.arange(5))
    assert features.dtype == (torch.float32 if feature_map.log_space else torch.bfloat16)


@pytest.mark.parametrize("name", ["performer", "exp", "hedgehog"])
def test_autocast_does_not_round_logarithms(name: str) -> None:
    feature_map = make_feature_map(name, 2, 8)
    x = 100 * torch.randn(1, 2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = feature_map(x)
    assert torch.equal(cast, feature_map(x))


def test_an_option_the_map_does_not_have_is_an_error() -> None:
    with pytest.raises(TypeError, match="t"):
        EluMap(2, 8, t=2)  # type: ignore[call-arg]
