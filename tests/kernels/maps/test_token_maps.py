"""Maps as the chunked form applies them: what readers give is what calls give, and their gradients are autograd's."""

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.maps.fixed import CosformerMap, EluMap
from hedgebench.kernels.maps.hedgehog_tokens import HedgehogTokens
from hedgebench.kernels.maps.learned import HEDGEHOG_MAPS
from hedgebench.kernels.maps.token_maps import GIVEN, Mapped, TokenMap

B, H, N, D, W = 2, 3, 7, 4, 5
RUNS = [slice(0, 3), slice(3, 6), slice(6, 7)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


REVERSIBLE: dict[str, TokenMap] = {
    "hedgehog": HedgehogTokens(draw(H, D, W)),
    "bias": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1)),
    "one_sign": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1), negate=False),
    "softmax": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1), "softmax"),
    "softmax_one_sign": HedgehogTokens(draw(H, D, W), None, "softmax", negate=False),
    "softmax_joint": HedgehogTokens(draw(H, D, W), draw(H, W, seed=1), "softmax_joint"),
    "softmax_joint_one_sign": HedgehogTokens(draw(H, D, W), None, "softmax_joint", negate=False),
    "given": GIVEN,
}


@pytest.mark.parametrize("name", REVERSIBLE)
def test_gradients_are_those_of_autograd(name: str) -> None:
    of = REVERSIBLE[name]
    x = draw(B, H, N, D, seed=2)
    features = of(x, slice(0, N))
    grad = torch.randn_like(features)
    expected = torch.autograd.grad(features, (x, *of.parameters), grad)
    with torch.no_grad():
        reader = of.reader(x, torch.float64)
        for run in reversed(RUNS):
            reader.reverse(run, reader.read(run), grad[:, :, run].flatten(0, 1).clone())
        found, parameters = reader.gradients()
    torch.testing.assert_close((found, *parameters), expected)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_without_tokens_gradients_are_zero(name: str) -> None:
    of = REVERSIBLE[name]
    reader = of.reader(draw(B, H, 0, D), torch.float64)
    found, parameters = reader.gradients()
    assert found.shape == (B, H, 0, D)
    assert not any(x.any() for x in parameters)


def test_a_frozen_matrix_gets_no_gradient() -> None:
    reader = HedgehogTokens(draw(H, D, W).detach()).reader(draw(B, H, N, D).detach(), torch.float64)
    features = reader.read(RUNS[0])
    reader.reverse(RUNS[0], features, torch.ones_like(features))
    _, (weight,) = reader.gradients()
    assert not weight.any()


@pytest.mark.parametrize("name", [*REVERSIBLE, "cosformer"])
def test_what_is_read_is_what_a_call_gives(name: str) -> None:
    positions = torch.arange(20) + torch.tensor([[0], [5]])
    of = REVERSIBLE.get(name) or Mapped(CosformerMap(H, D, length=30), (), positions)
    x = draw(B, H, N, D)
    with torch.no_grad():
        reader = of.reader(x, torch.float64)
        for run in RUNS:
            expected = of(x[:, :, run], run).flatten(0, 1)
            torch.testing.assert_close(reader.read(run), expected, rtol=1e-14, atol=1e-15)


def test_a_map_reads_the_positions_of_its_tokens() -> None:
    cosformer = CosformerMap(H, D, length=30)
    positions = torch.arange(20) + torch.tensor([[0], [5]])
    x = draw(B, H, 3, D)
    run = slice(3, 6)
    assert torch.equal(Mapped(cosformer, (), positions)(x, run), cosformer(x, positions[:, run]))


@torch.no_grad()
def test_features_are_read_in_the_type_that_is_asked_for() -> None:
    for of in (HedgehogTokens(draw(H, D, W)), GIVEN, Mapped(EluMap(H, D))):
        read = of.reader(draw(B, H, N, D).detach().bfloat16(), torch.float32).read(RUNS[0])
        assert read.dtype == torch.float32


def test_only_maps_with_gradients_of_their_own_are_reversible() -> None:
    weight = draw(H, D, W)
    for variant in HEDGEHOG_MAPS:
        assert HedgehogTokens(weight, None, variant).reversible == (variant != "exp_max")
    assert GIVEN.reversible
    assert not Mapped(EluMap(H, D)).reversible
