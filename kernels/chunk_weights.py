"""Weights of a chunk's queries and keys, on features as they are or on their logarithms.

A query gives a key the weight queries·keys·exp(scale). In log space a shift per feature is taken off the keys and put
on the queries, as `log_space` explains, and both are in scratch memory.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .chunked_call import ChunkedCall
from .state import EMPTY_LOG


def log_keys(call: ChunkedCall, at: slice, features: int) -> Float[Tensor, "b hk c f"]:
    """Gives logarithms of the features of keys in scratch memory, `EMPTY_LOG` where masked."""
    k = call.k[:, :, at]
    keys = call.scratch("keys", *k.shape[:3], features)
    call.maps[1].write(k, at, keys, call.scratch)
    return keys if call.mask is None else keys.masked_fill_(call.padding(at), EMPTY_LOG)


def key_weights(call: ChunkedCall, at: slice, shift: Float[Tensor, "b hk 1 f"] | None) -> Float[Tensor, "b hk c f"]:
    """Gives the weights of keys; where masked zero, or any number up to 1."""
    return call.keys(at) if shift is None else log_keys(call, at, shift.shape[-1]).sub_(shift).exp_()


def query_weights(
    call: ChunkedCall, at: slice, shift: Float[Tensor, "b hk 1 f"] | None
) -> tuple[Float[Tensor, "b hk gc f"], Tensor]:
    """Gives the weights of queries, and the logarithm [b hk gc 1] taken off a row so that its largest is 1, or zero."""
    if shift is None:
        return call.queries(at), call.v.new_zeros(())
    q = call.q[:, :, at]
    weights = call.scratch("queries", *q.shape[:3], shift.shape[-1])
    call.maps[0].write(q, at, weights, call.scratch)
    weights.add_(shift if call.groups == 1 else shift.repeat_interleave(call.groups, 1))
    scale = weights.amax(-1, keepdim=True)
    return call.by_kv_head(weights.sub_(scale).exp_()), call.by_kv_head(scale)


def scores_within(
    call: ChunkedCall, queries: Float[Tensor, "b hk gc f"], keys: Float[Tensor, "b hk c f"]
) -> Float[Tensor, "b hk gc c"]:
    """Gives queries·keys of a chunk with itself in scratch memory, zero where the key is later."""
    scores = call.scratch("scores", *queries.shape[:3], keys.shape[2])
    product(queries, keys.mT, scores)
    torch.unflatten(scores, 2, (call.groups, -1)).tril_()
    return scores


def product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Writes left·right, of matrices [b h . .], to `out`."""
    torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out=out.flatten(0, 1))
    return out


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Adds left·right, of matrices [b h . .], to `total`."""
    flat = total.flatten(0, 1)
    torch.baddbmm(flat, left.flatten(0, 1), right.flatten(0, 1), out=flat)
    return total
