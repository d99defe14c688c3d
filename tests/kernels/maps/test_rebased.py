"""ReBased's map against its formula and flash-linear-attention's quadratic reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hedgebench.kernels.dispatch import linear_attention
from hedgebench.kernels.maps.feature_map import Role
from hedgebench.kernels.maps.rebased import RebasedMap

from ...peer import peer_module


def test_scores_are_squares_of_products_of_normalised_vectors_and_attention_is_the_peers() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 21, 8, dtype=torch.float64, generator=draw)
    roles: tuple[Role, ...] = ("query", "key")
    maps = [RebasedMap(3, 8, feature_dim=5, role=role, seed=1).double() for role in roles]
    assert not torch.equal(maps[0].weight, maps[1].weight)
    with torch.no_grad():
        for each in maps:
            each.gamma.normal_(generator=draw)
            each.beta.normal_(generator=draw)
    mapped = [
        each.gamma[:, None] * F.layer_norm(x @ each.weight, (5,)) + each.beta[:, None]
        for each, x in zip(maps, (q, k), strict=True)
    ]
    features = [each(x) for each, x in zip(maps, (q, k), strict=True)]
    assert features[0].shape[-1] == maps[0].feature_dim == 15
    scores = (mapped[0] @ mapped[1].mT).square() / 5
    torch.testing.assert_close(features[0] @ features[1].mT, scores)
    vectors = [each.product_vectors(x) for each, x in zip(maps, (q, k), strict=True)]
    torch.testing.assert_close(maps[0].of_products(vectors[0] @ vectors[1].mT), scores)
    naive_parallel_rebased = peer_module("ops.rebased.naive").naive_parallel_rebased
    ours = linear_attention(features[0], features[1], v, causal=True, form="chunk").output
    torch.testing.assert_close(ours, naive_parallel_rebased(*mapped, v), rtol=1e-4, atol=1e-4)  # its eps is 1e-6
