"""Weights of a chunk's queries and keys, on features as they are or on their logarithms.

A query gives a key the weight queries·keys·exp(scale). In log space a shift per feature is taken off the keys and put
on the queries, as `log_space` explains, and both are in scratch memory.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .chunked_call import ChunkedCall


def key_weights(call: ChunkedCall, at: slice, shift: Float[Tensor, "b hk 1 f"] | None) -> Float[Tensor, "b hk c f"]:
    """Gives the weights of keys; where masked zero, or any number up to 1."""
    return call.keys(at) if shift is None else less_shift(call, call.keys(at), shift).exp_()


def less_shift(
    call: ChunkedCall, keys: Float[Tensor, "b hk c f"], shift: Float[Tensor, "b hk 1 f"]
) -> Float[Tensor, "b hk c f"]:
    """Gives how far logarithms of keys stand above the shift, in scratch memory."""
    return torch.sub(keys, shift, out=call.scratch("keys", *keys.shape))


def query_weights(
    call: ChunkedCall, at: slice, shift: Float[Tensor, "b hk 1 f"] | None
) -> tuple[Float[Tensor, "b hk gc f"], Tensor]:
    """Gives the weights of queries, and the logarithm [b hk gc 1] taken off a row so that its largest is 1, or zero."""
    queries = call.queries(at)
    if shift is None:
        return call.by_kv_head(queries), call.v.new_zeros(())
    by_head = shift if call.groups == 1 else shift.repeat_interleave(call.groups, 1)
    weights = torch.add(queries, by_head, out=call.scratch("queries", *queries.shape))
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
