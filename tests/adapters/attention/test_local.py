"""Local softmax attention: near tokens on both sides, checked against a softmax worked out by hand."""

from __future__ import annotations

import torch

from hedgebench.adapters.attention.core import Heads, token_positions
from hedgebench.adapters.attention.local import LocalSoftmaxAttention
from hedgebench.adapters.attention.softmax import SoftmaxAttention


def heads(mask: torch.Tensor | None = None) -> Heads:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 7, 4, generator=generator) for n in (4, 2, 2))
    return Heads(q, k, v, token_positions(q[:, 0], mask), mask)


def test_a_distance_beyond_the_sequence_is_softmax_attention() -> None:
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    wide, plain = LocalSoftmaxAttention(6)(heads(mask), causal=False), SoftmaxAttention()(heads(mask), causal=False)
    torch.testing.assert_close(wide[:, :, :5], plain[:, :, :5])


def test_a_query_sees_the_tokens_within_the_distance() -> None:
    given = heads()
    core = LocalSoftmaxAttention(1)
    weights = core.weights(given, causal=False)
    assert torch.equal(weights[0, 0] > 0, torch.ones(7, 7).triu(-1).tril(1).bool())
    near = (given.q[0, 3, 2] @ given.k[0, 1, 1:4].T / 2).softmax(-1)
    torch.testing.assert_close(weights[0, 3, 2, 1:4], near)
    torch.testing.assert_close(core(given, causal=False)[0, 3, 2], near @ given.v[0, 1, 1:4])


def test_a_query_whose_near_keys_are_all_padding_gives_zero() -> None:
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 3:] = False
    assert not LocalSoftmaxAttention(1)(heads(mask), causal=False)[0, :, 5].any()
