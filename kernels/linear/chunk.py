"""Linear attention in chunks: quadratic within a chunk, sums between chunks; time and memory linear in tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..maps.token_maps import Given, TokenMap
from ..state import LinearState
from .chunk_function import attend_in_cache
from .chunk_steps import CHUNK_SIZE, attend_by_steps
from .chunked_call import ChunkedCall, ChunkOptions
from .sums import EPS, carry_from_state, query_groups, state_from_carry


def linear_attention_chunk(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    normalize: bool = True,
    eps: float = EPS,
    log_space: bool = False,
    chunk_size: int = CHUNK_SIZE,
    initial_state: LinearState | None = None,
    maps: tuple[TokenMap, TokenMap] | None = None,
) -> tuple[Float[Tensor, "b h n dv"], LinearState]:
    """Gives Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j) without any n×m tensor, and the state after the last key.

    On a CPU, outside torch.compile, hand-written steps go through the chunks in memory that is used again, and make
    gradients from q, k, v and the sums between chunks. Elsewhere, and for gradients of a single chunk, whose weights
    are worth keeping, autograd follows the steps.

    With `maps`, features exist for one chunk at a time, unless gradients are wanted of a map that leaves them to
    autograd.

    Args:
        phi_q: features of the queries, or their logarithms.
        phi_k: features of the keys, or their logarithms; query head i uses kv head i // (h / hk).
        v: values.
        causal: a query sees the keys up to its own; with m > n the queries are the last n tokens.
        key_padding_mask: true where a key is a real token; the others count in neither sum.
        normalize: divide by the row sum.
        eps: added to the row sum, outside log space.
        log_space: `phi_q` and `phi_k` are logarithms.
        chunk_size: tokens handled at once in a causal call, and in any call with `maps`.
        initial_state: state after the tokens before these, which all queries see.
        maps: of queries and of keys, where `phi_q` and `phi_k` are not features yet but what these maps take.

    Raises:
        ValueError: heads that do not divide, more queries than keys in a causal call, a chunk size below 1, or an
            initial state that does not fit `log_space`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 token, got {chunk_size}")
    query_groups(phi_q, phi_k, causal)
    options = ChunkOptions(causal, normalize, eps, log_space, chunk_size)
    if v.device.type != "cpu" or torch.compiler.is_compiling():
        return attend_by_steps(phi_q, phi_k, v, key_padding_mask, initial_state, maps, options)
    query_map, key_map = maps or (Given(), Given())
    no_keys = key_map(phi_k[:, :, :0], slice(0, 0))
    carry = carry_from_state(initial_state, no_keys, v[:, :, :0], log_space)
    leaves = (phi_q, phi_k, v, carry.sums, *query_map.parameters, *key_map.parameters)
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in leaves)
    if differentiated and phi_q.shape[2] and phi_k.shape[2] <= chunk_size:
        return attend_by_steps(phi_q, phi_k, v, key_padding_mask, initial_state, maps, options)
    if differentiated:
        phi_q, query_map = _reversible(phi_q, query_map)
        phi_k, key_map = _reversible(phi_k, key_map)
    call = ChunkedCall(phi_q, phi_k, v, key_padding_mask, (query_map, key_map), options)
    output, carry = attend_in_cache(call, carry, differentiated=differentiated)
    return output.to(v.dtype), state_from_carry(carry, log_space)


def _reversible(x: Tensor, of: TokenMap) -> tuple[Tensor, TokenMap]:
    """Gives what a map that has its own gradients takes: all features, where the given one leaves them to autograd."""
    return (x, of) if of.reversible else (of(x, slice(0, x.shape[2])), Given())
