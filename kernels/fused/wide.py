"""Launches the Triton kernels of linear attention over many plain features."""

from typing import Any

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.launch import launch, strides
from ..triton.tiles import WIDE_TILE, interpreting, with_tiles
from ..wide.backward_kernels import wide_key_gradients, wide_query_gradients, wide_value_gradients
from ..wide.kernels import attend_wide, scan, sum_wide_keys, sum_wide_queries
from .call import Call

SCAN_TILE = (16, 64)
"""Features and values of a state that one program of the scans carries."""


def wide_forward(call: Call, output: Tensor, norms: Tensor, final: LinearState) -> None:
    """Computes outputs, norms and the state after the last key."""
    states = _key_states(call, final)
    launch(
        attend_wide, (_chunks(call), call.q.shape[1], triton.cdiv(call.values, call.sizes.values)), shared=call.shared,
        states=states.kv, state_keys=states.k, output=output, norms=norms, **strides(o=output), **_options(call),
    )  # fmt: skip


def wide_backward(
    call: Call, output: Tensor, norms: Tensor, grad: Tensor, last: LinearState | None, into: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """Computes the gradients of q, k and v into three tensors, and gives those of the initial state, if there is one.

    Args:
        call: the call.
        output: its output.
        norms: its norms.
        grad: gradient of the output.
        last: gradient of the state after the last key, if there is one.
        into: for the gradients of q, k and v.
    """
    grad_q, grad_k, grad_v = into
    pulls = (output.float() * grad).sum(-1) if call.normalize else torch.zeros_like(norms)
    shared: dict[str, Any] = call.shared | strides(grad=grad, dv=grad_v)
    shared |= {"grad": grad, "norms": norms, "pulls": pulls}
    first = _empty(call, call.sequences, torch.float32)
    before = _key_states(call, _empty(call, call.sequences, torch.float32))
    own = _empty(call, call.slots, torch.float32)
    launch(sum_wide_queries, _sum_grid(call), shared=shared, sums=own.kv, vectors=own.k, **_options(call))
    after = _scanned(call, own, last, first, reverse=True)
    parts, tiles = triton.cdiv(call.features, WIDE_TILE), triton.cdiv(call.values, call.sizes.values)
    heads, options = call.k.shape[1], {"num_warps": call.sizes.backward_warps, "num_stages": call.sizes.stages}
    launch(
        wide_query_gradients, (_chunks(call), call.q.shape[1], parts), shared=shared,
        states=before.kv, state_keys=before.k, grad_y=grad_q, **options,
    )  # fmt: skip
    launch(
        wide_key_gradients, (_chunks(call), heads, parts), shared=shared,
        states=after.kv, state_queries=after.k, grad_y=grad_k, **options,
    )  # fmt: skip
    launch(
        wide_value_gradients, (_chunks(call), heads, tiles), shared=shared,
        states=after.kv, grad_v=grad_v, C=with_tiles(call.constants, values=call.sizes.values), **options,
    )  # fmt: skip
    return {} if call.initial is None else {"initial_kv": first.kv, "initial_k": first.k}


def _key_states(call: Call, final: LinearState) -> LinearState:
    """The sums over the keys before each segment, or all of them if the call is not causal."""
    own = _empty(call, call.slots, torch.float32)
    launch(sum_wide_keys, _sum_grid(call), shared=call.shared, sums=own.kv, vectors=own.k, **_options(call))
    return _scanned(call, own, call.initial, final, reverse=False)


def _scanned(
    call: Call, own: LinearState, given: LinearState | None, whole: LinearState, *, reverse: bool
) -> LinearState:
    """The sums before or after each segment from those of each; without causality those of whole sequences."""
    halved = call.q.dtype == torch.bfloat16 and not interpreting()
    states = _empty(call, call.slots if call.causal else 0, torch.bfloat16 if halved else torch.float32)
    start = whole if given is None else LinearState(given.kv.float().contiguous(), given.k.float().contiguous())
    tiles = triton.cdiv(call.features, SCAN_TILE[0]) * triton.cdiv(call.values, SCAN_TILE[1])
    launch(
        scan, (call.sequences, call.k.shape[1], tiles), shared=call.shared,
        sums=own.kv, vectors=own.k, initial=start.kv, initial_vectors=start.k, states=states.kv, state_vectors=states.k,
        final=whole.kv, final_vectors=whole.k, GIVEN=given is not None, REVERSE=reverse,
        C=with_tiles(call.constants, values=SCAN_TILE[1], features=SCAN_TILE[0]), num_warps=4, num_stages=3,
    )  # fmt: skip
    return states if call.causal else whole


def _empty(call: Call, count: int, dtype: torch.dtype) -> LinearState:
    keys = torch.empty(count, call.k.shape[1], call.features, dtype=torch.float32, device=call.q.device)
    return LinearState(torch.empty(*keys.shape, call.values, dtype=dtype, device=keys.device), keys)


def _chunks(call: Call) -> int:
    """The number of programs in a grid with one program for each chunk."""
    return int(call.slots) * (call.sizes.block // call.sizes.chunk)


def _sum_grid(call: Call) -> tuple[int, int, int]:
    tiles = triton.cdiv(call.values, call.sizes.values)
    return call.slots, call.k.shape[1], triton.cdiv(call.features, WIDE_TILE) * tiles


def _options(call: Call) -> dict[str, Any]:
    constants = with_tiles(call.constants, values=call.sizes.values)
    return {"C": constants, "num_warps": call.sizes.warps, "num_stages": call.sizes.stages}
