"""The part of a chunk in log space whose log features far exceed those of all earlier keys: exact, causal sums."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ..state import EMPTY_LOG
from .memory import FRESH, Memory
from .sums import Rows


def spilled_sums(
    queries: Float[Tensor, "r gc f"],
    keys: Float[Tensor, "r c f"],
    values: Float[Tensor, "r c dv1"],
    spilled: Bool[Tensor, "r c f"],
) -> Rows:
    """Sums the spilled log features by halving: the right half of a block attends to its left half.

    The shift is the maximum of each feature over the left half, all of which the right half sees. Blocks of every power
    of two up to the chunk cover each pair of a query and an earlier key once; pairs of a query with its own key are
    added separately.

    Args:
        queries: log features, the g query heads of a kv head one after another.
        keys: log features.
        values: values with their column of ones.
        spilled: true at the log features of keys to sum; the others are left out.
    """
    length = keys.shape[1]
    padding = (0, 0, 0, (1 << (length - 1).bit_length()) - length)
    queries = F.pad(torch.unflatten(queries, 1, (-1, length)), padding)
    keys = F.pad(keys.masked_fill(~spilled, EMPTY_LOG), padding, value=EMPTY_LOG)[:, None]
    values, spilled = F.pad(values, padding)[:, None], F.pad(spilled, padding)[:, None]
    weights, scale = query_weights(queries, keys)
    total = Rows((weights * spilled).sum(-1, keepdim=True) * values, scale)
    half = keys.shape[-2] // 2
    while half:
        total = merge(total, _right_from_left(queries, keys, values, spilled, half))
        half //= 2
    return Rows(total.sums[..., :length, :].flatten(1, 2), total.log_scale[..., :length, :].flatten(1, 2))


def merge(one: Rows, other: Rows) -> Rows:
    """Adds two sums of different scale. Adding sums whose log_scale is `EMPTY_LOG` changes no bit."""
    scale = torch.maximum(one.log_scale, other.log_scale)
    return Rows(one.sums * (one.log_scale - scale).exp() + other.sums * (other.log_scale - scale).exp(), scale)


def query_weights(
    queries: Float[Tensor, "*b n f"], shift: Float[Tensor, "*#b #n f"], memory: Memory = FRESH
) -> tuple[Float[Tensor, "*b n f"], Float[Tensor, "*b n 1"]]:
    """The weights exp(queries + shift - scale), at most 1, and their scale, the largest exponent of each row."""
    exponent = torch.add(queries, shift, out=memory("query_weights", *queries.shape))
    scale = constant(exponent).amax(-1, keepdim=True)
    return exponent.sub_(scale).exp_(), scale


def constant(x: Tensor) -> Tensor:
    """The tensor without its gradient."""
    return x.detach() if x.requires_grad else x


def first_seen(keys: Float[Tensor, "*b c f"]) -> Float[Tensor, "*b 1 f"]:
    """The first real key, or a masked key if all are masked."""
    return keys.take_along_dim((keys[..., :1] > EMPTY_LOG / 2).int().argmax(-2, keepdim=True), dim=-2)


def _right_from_left(queries: Tensor, keys: Tensor, values: Tensor, spilled: Tensor, half: int) -> Rows:
    right = torch.unflatten(queries, -2, (-1, 2, half))[..., 1, :, :]
    left, left_values, left_spilled = (
        torch.unflatten(tensor, -2, (-1, 2, half))[..., 0, :, :] for tensor in (keys, values, spilled)
    )
    shift = left.detach().amax(-2, keepdim=True)
    weights, scale = query_weights(right, shift)
    sums = weights @ ((left - shift).exp() * left_spilled).mT @ left_values
    sums = torch.stack([torch.zeros_like(sums), sums], dim=-3)
    scale = torch.stack([torch.full_like(scale, EMPTY_LOG), scale], dim=-3)
    return Rows(sums.flatten(-4, -2), scale.flatten(-4, -2))
