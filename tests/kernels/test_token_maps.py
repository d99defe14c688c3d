"""Maps as the chunked form applies them: what they write is what they give, and their own gradients are autograd's."""

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.feature_maps import make_feature_map
from hedgebench.kernels.learned_maps import HEDGEHOG_MAPS
from hedgebench.kernels.scratch import Scratch
from hedgebench.kernels.token_maps import Given, HedgehogTokens, Mapped, ReversibleMap, TokenMap, hedgehog_tokens

B, H, N, D, W = 2, 3, 7, 4, 5
TOKENS = slice(2, 2 + N)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


MAPS: dict[str, ReversibleMap] = {
    "hedgehog": HedgehogTokens(draw(H, D, W)),
    "bias": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1)),
    "one_sign": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1), negate=False),
    "softmax": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1), "softmax"),
    "softmax_one_sign": HedgehogTokens(draw(H, D, W), None, "softmax", negate=False),
    "softmax_joint": HedgehogTokens(draw(H, D, W), None, "softmax_joint"),
    "softmax_joint_one_sign": HedgehogTokens(draw(H, D, W), None, "softmax_joint", negate=False),
    "given": Given(),
}


@pytest.mark.parametrize("name", MAPS)
def test_gradients_are_those_of_autograd(name: str) -> None:
    of = MAPS[name]
    x = draw(B, H, N, D, seed=2)
    features = of(x, TOKENS)
    grad = torch.randn_like(features)
    expected = torch.autograd.grad(features, (x, *of.parameters), grad)
    totals = [torch.ones_like(parameter) for parameter in of.parameters]
    with torch.no_grad():
        found = of.gradients(x, features.detach(), grad.clone(), totals, Scratch(torch.float64, x.device))
    torch.testing.assert_close((found, *(total - 1 for total in totals)), expected)


def test_a_frozen_matrix_gets_no_gradient() -> None:
    of = HedgehogTokens(draw(H, D, W).detach(), draw(H, W).detach())
    totals = [torch.zeros_like(parameter) for parameter in of.parameters]
    x, grad = draw(B, H, N, D).detach(), draw(B, H, N, 2 * W).detach()
    of.gradients(x, grad, grad, totals, Scratch(torch.float64, x.device))
    assert not any(total.any() for total in totals)


@pytest.mark.parametrize("name", [*MAPS, "cosformer"])
def test_what_is_read_is_what_a_call_gives(name: str) -> None:
    positions = torch.arange(20).expand(B, -1)
    of: TokenMap = MAPS.get(name) or Mapped(make_feature_map("cosformer", H, D, length=30), (), positions)
    x = draw(B, H, N, D)
    expected = of(x, TOKENS).detach()
    with torch.no_grad():
        found = of.read(x, TOKENS, Scratch(torch.float64, x.device), "features")
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)


def test_a_map_reads_the_positions_of_its_tokens() -> None:
    cosformer = make_feature_map("cosformer", H, D, length=30)
    positions = torch.arange(20) + torch.tensor([[0], [5]])
    x = draw(B, H, N, D)
    assert torch.equal(Mapped(cosformer, (), positions)(x, TOKENS), cosformer(x, positions[:, TOKENS]))


def test_only_maps_with_gradients_of_their_own_are_reversible() -> None:
    weight = draw(H, D, W)
    for variant in HEDGEHOG_MAPS:
        assert isinstance(hedgehog_tokens(weight, None, variant, True), ReversibleMap) == (variant != "exp_max")
    assert isinstance(Given(), ReversibleMap)
    assert not isinstance(Mapped(make_feature_map("elu", H, D)), ReversibleMap)
