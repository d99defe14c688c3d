"""Our forms and maps against the references that flash-linear-attention publishes for the same mathematics."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.dispatch import linear_attention
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn
from hedgebench.kernels.maps.learned import HedgehogMap, T2RMap, TaylorMap
from hedgebench.kernels.state import LinearState

from ..peer import peer_module

CAUSAL_FORMS = pytest.mark.parametrize("form", ["naive", "recurrent", "chunk"])
BATCH, TOKENS, HEADS, DIM = 2, 128, 3, 8


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """The package."""
    for module in ("ops.linear_attn.naive", "ops.based.naive", "modules.feature_map"):
        peer_module(module)
    return sys.modules["fla"]


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """Positive queries and keys, and values, all [b h n d] in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, BATCH, HEADS, TOKENS, DIM, dtype=torch.float64, generator=generator)
    return q.exp(), k.exp(), v


def tokens_first(x: Tensor) -> Tensor:
    """[b h n d] as the [b n h d] of the peer, and back."""
    return x.transpose(1, 2)


@CAUSAL_FORMS
@pytest.mark.parametrize("normalize", [True, False])
def test_causal_linear_attention_equals_the_peers(
    peer: ModuleType, qkv: tuple[Tensor, Tensor, Tensor], form: str, normalize: bool
) -> None:
    q, k, v = qkv
    given = map(tokens_first, qkv)
    theirs = peer.ops.linear_attn.naive.naive_chunk_linear_attn(*given, scale=1.0, normalize=normalize)
    ours = linear_attention(q, k, v, causal=True, normalize=normalize, form=form)
    torch.testing.assert_close(ours.output, tokens_first(theirs), rtol=1e-8, atol=1e-8)


@CAUSAL_FORMS
def test_gradients_of_causal_linear_attention_equal_the_peers(
    peer: ModuleType, qkv: tuple[Tensor, Tensor, Tensor], form: str
) -> None:
    leaves = [x.requires_grad_() for x in qkv]
    towards = torch.randn(qkv[2].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = peer.ops.linear_attn.naive.naive_chunk_linear_attn(*map(tokens_first, leaves), scale=1.0, normalize=True)
    expected = torch.autograd.grad(tokens_first(theirs), leaves, towards)
    q, k, v = leaves
    got = torch.autograd.grad(linear_attention(q, k, v, causal=True, form=form).output, leaves, towards)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["recurrent", "chunk"])
def test_going_on_from_a_state_equals_the_peers(
    peer: ModuleType, qkv: tuple[Tensor, Tensor, Tensor], form: str
) -> None:
    generator = torch.Generator().manual_seed(2)
    kv = torch.rand(BATCH, HEADS, DIM, DIM, generator=generator)
    k_sum = torch.rand(BATCH, HEADS, DIM, generator=generator)
    theirs, (kv_after, k_after) = peer.ops.linear_attn.naive.naive_recurrent_linear_attn(
        *(tokens_first(x.float()) for x in qkv),
        scale=1.0,
        initial_state=(kv, k_sum[:, None]),
        output_final_state=True,
        normalize=True,
    )
    q, k, v = (x.float() for x in qkv)
    state = LinearState(kv, k_sum)
    ours = linear_attention(q, k, v, causal=True, form=form, initial_state=state, return_state=True)
    torch.testing.assert_close(ours.output, tokens_first(theirs), rtol=1e-5, atol=1e-5)
    assert ours.state is not None
    torch.testing.assert_close(ours.state.kv, kv_after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state.k, k_after[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [DIM, 300])
@pytest.mark.parametrize("normalize", [True, False])
def test_attention_over_given_features_equals_the_peers(peer: ModuleType, features: int, normalize: bool) -> None:
    """Outputs and gradients, but for the peer's larger eps; no tile of our kernels holds 300 features."""
    generator = torch.Generator().manual_seed(8)
    q, k = torch.rand(2, BATCH, HEADS, TOKENS, features, dtype=torch.float64, generator=generator)
    v, towards = torch.randn(2, BATCH, HEADS, TOKENS, DIM, dtype=torch.float64, generator=generator)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    theirs = peer.ops.linear_attn.naive.naive_chunk_linear_attn(
        *map(tokens_first, leaves), scale=1.0, normalize=normalize
    )
    ours = chunk_linear_attn(q, k, v, normalize=normalize).output
    torch.testing.assert_close(ours, tokens_first(theirs), rtol=1e-8, atol=1e-8)
    expected = torch.autograd.grad(tokens_first(theirs), leaves, towards)
    for mine, other in zip(torch.autograd.grad(ours, leaves, towards), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("features", [DIM, 300])
def test_attention_over_given_features_goes_on_from_a_state_as_the_peers_does(peer: ModuleType, features: int) -> None:
    generator = torch.Generator().manual_seed(9)
    q, k = torch.rand(2, BATCH, HEADS, 20, features, generator=generator)
    v = torch.randn(BATCH, HEADS, 20, DIM, generator=generator)
    kv, k_sum = (
        torch.rand(BATCH, HEADS, features, DIM, generator=generator),
        torch.rand(BATCH, HEADS, features, generator=generator),
    )
    theirs, (kv_after, k_after) = peer.ops.linear_attn.naive.naive_recurrent_linear_attn(
        *map(tokens_first, (q, k, v)), scale=1.0, initial_state=(kv, k_sum[:, None]), output_final_state=True,
        normalize=True,
    )  # fmt: skip
    ours = chunk_linear_attn(q, k, v, initial_state=LinearState(kv, k_sum), output_final_state=True)
    torch.testing.assert_close(ours.output, tokens_first(theirs), rtol=1e-5, atol=1e-5)
    assert ours.state is not None
    torch.testing.assert_close(ours.state.kv, kv_after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state.k, k_after[:, 0], rtol=1e-5, atol=1e-5)


def test_hedgehog_attention_with_one_map_for_all_heads_equals_the_peers_map_and_attention(
    peer: ModuleType, qkv: tuple[Tensor, Tensor, Tensor]
) -> None:
    """The peer's maps are shared by all heads: their gradients are the sums of our heads' gradients."""
    q, k, v = (x.log() if x is not qkv[2] else x for x in qkv)
    towards = torch.randn(v.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = [peer.modules.feature_map.HedgehogFeatureMap(DIM).double() for _ in range(2)]
    for seed, module in enumerate(maps):
        torch.nn.init.normal_(module.layer.weight, std=0.2, generator=torch.Generator().manual_seed(seed))
        torch.nn.init.normal_(module.layer.bias, std=0.2, generator=torch.Generator().manual_seed(2 + seed))
    ours = [module.layer.weight.detach().T.repeat(HEADS, 1, 1).requires_grad_() for module in maps]
    ours += [module.layer.bias.detach().repeat(HEADS, 1).requires_grad_() for module in maps]
    features = [tokens_first(module(x)) for module, x in zip(maps, (q, k), strict=True)]
    theirs = peer.ops.linear_attn.naive.naive_chunk_linear_attn(*features, tokens_first(v), scale=1.0, normalize=True)
    output = chunk_hedgehog_attn(q, k, v, *ours, feature_map="softmax_joint").output
    torch.testing.assert_close(output, tokens_first(theirs), rtol=1e-6, atol=1e-8)
    expected = [module.layer.weight for module in maps] + [module.layer.bias for module in maps]
    wanted = torch.autograd.grad(tokens_first(theirs), expected, towards)
    for mine, other in zip(torch.autograd.grad(output, ours, towards), wanted, strict=True):
        torch.testing.assert_close(mine.sum(0), other.T if other.ndim == 2 else other, rtol=1e-6, atol=1e-7)


@CAUSAL_FORMS
def test_taylor_attention_equals_the_peers_quadratic_form(
    peer: ModuleType, qkv: tuple[Tensor, Tensor, Tensor], form: str
) -> None:
    q, k, v = (x.log() if x is not qkv[2] else x for x in qkv)
    theirs = peer.ops.based.naive.naive_parallel_based(q, k, v)
    feature_map = TaylorMap(HEADS, DIM)
    ours = linear_attention(feature_map(q), feature_map(k), v, causal=True, form=form)
    torch.testing.assert_close(ours.output, theirs, rtol=1e-5, atol=1e-5)  # the peer adds 1e-6 to the normaliser


@torch.no_grad()
def test_the_joint_softmax_map_equals_the_peers(peer: ModuleType) -> None:
    theirs = peer.modules.feature_map.HedgehogFeatureMap(DIM)
    torch.nn.init.normal_(theirs.layer.weight, generator=torch.Generator().manual_seed(3))
    torch.nn.init.normal_(theirs.layer.bias, generator=torch.Generator().manual_seed(4))
    ours = HedgehogMap(1, DIM, map="softmax_joint", bias=True)
    ours.weight.copy_(theirs.layer.weight.T[None])
    assert ours.bias is not None
    ours.bias.copy_(theirs.layer.bias[None])
    x = torch.randn(2, 1, 5, DIM, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_the_relu_map_equals_the_peers(peer: ModuleType) -> None:
    theirs = peer.modules.feature_map.T2RFeatureMap(DIM, 6, bias=True)
    ours = T2RMap(1, DIM, feature_dim=6)
    ours.weight.copy_(theirs.layer.weight.T[None])
    ours.bias.copy_(theirs.layer.bias[None])
    x = torch.randn(2, 1, 5, DIM, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.filterwarnings("ignore:.*(use_reentrant|requires_grad=True):UserWarning")
def test_inner_products_of_the_taylor_map_equal_the_peers(peer: ModuleType) -> None:
    theirs = peer.modules.feature_map.TaylorFeatureMap(DIM)
    ours = TaylorMap(1, DIM)
    q, k = torch.randn(2, 1, 1, 5, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    expected = theirs(q) @ theirs(k).mT
    torch.testing.assert_close(ours(q) @ ours(k).mT, expected)
    z = q @ k.mT / math.sqrt(DIM)
    torch.testing.assert_close(expected, 1 + z + z.square() / 2)
