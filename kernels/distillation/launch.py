"""Launches the Triton kernels of attention distillation."""

from typing import Any

import torch
import triton
from torch import Tensor

from ..triton.launch import MAX_GRID, launch, mask_bytes
from ..triton.tiles import Constants, padded
from .call import DistillationCall
from .kernels import distill_key_gradients, distill_query_gradients, distill_rows
from .tiled_scores import FeatureGradients
from .tiles import FLOOR

ROWS = 64
"""Query rows in a tile of scores, and keys: the tile is square. Heads of more than 128 dimensions take half of it."""

FEATURES = 128
"""Largest number of feature columns in a tile; more features are read one tile after another."""

PRECISION = "tf32x3"
"""Each product is three TF32 products on tensor cores, accurate to a few bits of float32. The loss takes logarithms of
probabilities, so the relative error of a score becomes an error in nats: up to 0.004 in bfloat16."""


def distill(
    call: DistillationCall, factors: tuple[Tensor, Tensor], rows: int | None = None
) -> tuple[Tensor, Tensor, FeatureGradients | None]:
    """Cross-entropy and KL divergence [l g], and the gradients of the factors if the call asks for gradients.

    Args:
        call: a call in float32; its features are not read.
        factors: the results of `factored`: features [l g n f] and [l m f] whose products are scores.
        rows: query rows, and keys, in a tile; by default from `ROWS`.
    """
    q, k, phi_q, phi_k, shares = (x.contiguous() for x in (call.q, call.k, *factors, call.shares))
    (leading, groups, queries, dim), (keys, features) = q.shape, phi_k.shape[1:]
    rows, columns = rows or (ROWS if dim <= 128 else ROWS // 2), min(FEATURES, padded(features))
    tensors = (q, k, phi_q, phi_k, mask_bytes(call.padding))
    found = tuple(torch.empty(leading, groups, queries, dtype=torch.float32, device=q.device) for _ in range(5))
    sizes: dict[str, Any] = {
        "queries": queries, "keys": keys, "eps": 0.0 if call.log_space else call.eps, "floor": FLOOR,
        "C": Constants(
            DIM=dim, VALUES=0, CHUNK=rows, BD=padded(dim), BV=0, OPERAND=None, PRECISION=PRECISION, WIDTH=features,
            BW=columns, CAUSAL=call.causal, HAS_MASK=call.padding is not None, GROUPS=groups,
        ),
    }  # fmt: skip
    gradients = None
    if call.with_gradients:
        gradients = FeatureGradients(torch.empty_like(phi_q), phi_k.new_empty(leading, groups, keys, features))
    tiles, key_tiles, parts = (triton.cdiv(*each) for each in ((queries, rows), (keys, rows), (features, columns)))
    at_once = MAX_GRID[1] // groups
    for first in range(0, leading, at_once):
        some = slice(first, first + at_once)
        heads, options = min(at_once, leading - first) * groups, {"num_warps": 8, "num_stages": 1}
        shared = sizes | {
            "tensors": tuple(x if x is None else x[some] for x in tensors), "shares": shares[some],
            "found": tuple(x[some] for x in found),
        }  # fmt: skip
        launch(distill_rows, (tiles, heads), shared=shared, **options)
        if gradients is not None:
            for kernel, count, of_features in (
                (distill_query_gradients, tiles, gradients.queries),
                (distill_key_gradients, key_tiles, gradients.keys),
            ):
                launch(kernel, (count, heads, parts), shared=shared, gradients=of_features[some], **options)
    return found[0].sum(-1), found[1].sum(-1), gradients
