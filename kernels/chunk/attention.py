"""Linear attention step by step: in chunks, token by token, and with the logarithm of its normaliser.

Attention in chunks is quadratic within a chunk and carries sums between chunks; time and memory are linear in tokens.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..linear.sums import EPS, normalized_from_rows, query_groups, state_from_carry
from ..maps.token_maps import GIVEN, TokenMap
from ..state import LinearState
from .call import CHUNK_SIZE, ChunkedCall
from .in_cache import attend_in_cache
from .steps import attend_by_steps, first_carry


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
    """The outputs Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), without any n×m tensor, and the state after the last key.

    On a CPU, outside torch.compile, the chunks run in reused buffers, and hand-written gradients recompute features and
    weights from q, k, v and the sums between chunks. Elsewhere autograd follows the steps; so it does for the gradients
    of a call of one chunk, whose weights it can keep.

    With `maps`, features exist for one chunk at a time, unless autograd must compute the gradients of a map.

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
        maps: maps of queries and of keys, if `phi_q` and `phi_k` are the inputs of maps rather than features.

    Raises:
        ValueError: kv heads that do not divide the query heads, more queries than keys in a causal call, a chunk size
            below 1, or an initial state that does not fit `log_space`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 token, got {chunk_size}")
    call = ChunkedCall(
        phi_q, phi_k, v, causal, key_padding_mask, normalize, eps, log_space, chunk_size, initial_state, maps
    )
    query_groups(phi_q, phi_k, causal)
    if v.device.type != "cpu" or torch.compiler.is_compiling():
        return _attend_by_steps(call)
    query_map, key_map = maps or (GIVEN, GIVEN)
    carry = first_carry(call)
    leaves = (phi_q, phi_k, v, carry.sums, *query_map.parameters, *key_map.parameters)
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in leaves)
    if differentiated and phi_q.shape[2] and phi_k.shape[2] <= chunk_size:
        return _attend_by_steps(call)
    if differentiated:
        phi_q, query_map = _reversible(phi_q, query_map)
        phi_k, key_map = _reversible(phi_k, key_map)
    call = replace(call, q=phi_q, k=phi_k, maps=(query_map, key_map))
    output, carry = attend_in_cache(call, carry, differentiated=differentiated)
    return output.to(v.dtype), state_from_carry(carry, v.shape[1], log_space=log_space)


def linear_attention_recurrent(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    **options: Any,
) -> tuple[Float[Tensor, "b h n dv"], LinearState]:
    """The outputs and state of `linear_attention_chunk`, computed one token at a time; the form for decoding.

    Autograd can follow. Arguments and errors are those of `linear_attention_chunk`, without `chunk_size` and `maps`.
    """
    query_groups(phi_q, phi_k, causal)
    return _attend_by_steps(ChunkedCall(phi_q, phi_k, v, causal, chunk_size=1, **options))


def linear_attention_and_log(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    **options: Any,
) -> tuple[Float[Tensor, "b h n dv"], Float[Tensor, "b h n"], LinearState]:
    """The outputs Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), the logarithms of the divisors, and the last state.

    The logarithm lets other attention share the normaliser. Outputs and logarithms are float32 at least, whatever the
    inputs. No eps is added: a row whose divisor is zero gives zero and `EMPTY_LOG`. A causal call of one token takes
    the recurrent step, which never waits for the device.

    Arguments and errors are those of `linear_attention_chunk`, without `normalize`, `eps`, `chunk_size` and `maps`;
    φ(q)·φ(k) must not be negative, and there must be a query.
    """
    query_groups(phi_q, phi_k, causal)
    size = 1 if causal and phi_q.shape[2] == phi_k.shape[2] == 1 else CHUNK_SIZE
    call = ChunkedCall(phi_q, phi_k, v, causal, chunk_size=size, **options)
    parts, carry = attend_by_steps(call, first_carry(call), normalized_from_rows)
    outputs, logs = zip(*parts, strict=True)
    output, log = torch.cat(outputs, dim=1), torch.cat(logs, dim=1)
    state = state_from_carry(carry, v.shape[1], log_space=call.log_space)
    return output.view(*phi_q.shape[:3], v.shape[3]), log.view(phi_q.shape[:3]), state


def _attend_by_steps(call: ChunkedCall) -> tuple[Tensor, LinearState]:
    outputs, carry = attend_by_steps(call, first_carry(call), call.division.output)
    shape = (*call.q.shape[:3], call.v.shape[3])
    output = torch.cat(outputs, dim=1).view(shape).to(call.v.dtype) if outputs else call.v.new_empty(shape)
    return output, state_from_carry(carry, call.v.shape[1], log_space=call.log_space)


def _reversible(x: Tensor, of: TokenMap) -> tuple[Tensor, TokenMap]:
    """The tensor and the map if the map is reversible; otherwise its features, and `GIVEN` as their map."""
    return (x, of) if of.reversible else (of(x, slice(0, x.shape[2])), GIVEN)
