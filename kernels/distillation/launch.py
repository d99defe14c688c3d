"""Launches the Triton kernels of attention distillation."""

from typing import Any

import torch
import triton
from torch import Tensor

from ..fused.call import MAX_GRID, launch, stand_in
from ..triton.tiles import padded
from .kernels import distill_key_gradients, distill_query_gradients, distill_rows
from .tiled_scores import FeatureGradients
from .tiles import FLOOR, Problem

ROWS = 64
"""Query rows in a tile, and keys; half of it for heads of more than 128 dimensions."""

FEATURES = 128
"""Columns of features in a tile at most; wider ones are taken a tile after another."""

PRECISION = "tf32x3"
"""Products of three TF32 ones each: float32's accuracy to a few bits, on tensor cores. A probability down to 1e-12 goes
into a logarithm here, and bfloat16's eight bits would be its error."""


def distill(
    problem: Problem,
    factors: tuple[Tensor, Tensor],
    causal: bool,
    eps: float,
    with_gradients: bool,
    rows: int | None = None,
) -> tuple[Tensor, Tensor, FeatureGradients | None]:
    """Gives cross-entropy and divergence [l g], and the gradients of the factors where they are wanted.

    Args:
        problem: of float32; its features are not read.
        factors: features [l g n f] and [l m f] whose products are scores.
        causal: a query sees the keys up to its own; the queries are the last n tokens.
        eps: added to a row's total.
        with_gradients: give gradients too.
        rows: query rows and keys in a tile, unless `ROWS`.
    """
    q, k, phi_q, phi_k = (x.contiguous() for x in (problem.q, problem.k, *factors))
    leading, groups, queries, dim = q.shape
    rows = rows or (ROWS if dim <= 128 else ROWS // 2)
    keys, features = phi_k.shape[1:]
    shares = problem.shares.contiguous()
    padding = stand_in(None if problem.padding is None else problem.padding.contiguous().view(torch.uint8), shares)
    of_rows = torch.empty(5, leading, groups, queries, dtype=torch.float32, device=q.device)
    options: dict[str, Any] = {
        "DIM": dim, "FEATURES": features, "CAUSAL": causal, "HAS_PADDING": problem.padding is not None,
        "FLOOR": FLOOR, "ROWS": rows, "KEYS": rows, "BD": padded(dim), "BF": min(FEATURES, padded(features)),
        "PRECISION": PRECISION, "num_warps": 8, "num_stages": 1,
    }  # fmt: skip
    gradients = None
    if with_gradients:
        gradients = FeatureGradients(torch.empty_like(phi_q), phi_k.new_empty(leading, groups, keys, features))
    tiles, key_tiles, parts = triton.cdiv(queries, rows), triton.cdiv(keys, rows), triton.cdiv(features, options["BF"])
    at_once = MAX_GRID[1] // groups
    for first in range(0, leading, at_once):
        some = slice(first, first + at_once)
        inputs, results = [x[some] for x in (q, k, phi_q, phi_k, padding, shares)], of_rows[:, some]
        sizes, heads = (queries, keys, groups), inputs[0].shape[0] * groups
        launch(distill_rows, (tiles, heads), *inputs, *results, *sizes, eps, **options)
        if gradients is not None:
            known = (*inputs, *results[2:])
            launch(distill_query_gradients, (tiles, heads, parts), *known, gradients.queries[some], *sizes, **options)
            launch(distill_key_gradients, (key_tiles, heads, parts), *known, gradients.keys[some], *sizes, **options)
    return of_rows[0].sum(-1), of_rows[1].sum(-1), gradients
