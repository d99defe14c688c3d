"""Launches the kernels of `triton_states`: sums of blocks, and the scans over them.

Blocks' own sums are float32, so that what the scans add up is; only the sums that products read are stored in the
products' type.
"""

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.states import scan_keys, scan_queries, sum_keys, sum_queries
from ..triton.tiles import WIDE_TILE, state_dtype
from ..wide.kernels import sum_wide_keys, sum_wide_queries
from .call import FusedCall, Sums, initial_tensors, launch, mask_of, strides_of

SCAN_TILE = (16, 64)
"""Features and values of a state that one program of the scans carries."""


def key_states(call: FusedCall) -> tuple[Sums, Sums]:
    """Gives the sums over the keys before each block (empty without `causal`), and over all keys of a sequence."""
    table, sizes, heads, mask = call.table, call.sizes, call.k.shape[1], mask_of(call)
    blocks, sequences = table.blocks.shape[0], table.sequences.shape[0]
    own = call.state_like(blocks, torch.float32)
    states = call.state_like(blocks if call.causal else 0, state_dtype(call.q.dtype))
    final = call.state_like(sequences, torch.float32)
    if call.wide:
        launch(
            sum_wide_keys, (blocks, heads, _wide_tiles(call)),
            call.k, call.v, mask, table.blocks, own.matrix, own.vector, *strides_of(call.k), *strides_of(call.v),
            mask.stride(0), HAS_MASK=call.mask is not None, BV=sizes.values, **call.wide_constants(),
            num_warps=sizes.warps,
        )  # fmt: skip
    else:
        launch(
            sum_keys, (blocks, heads, triton.cdiv(call.values, sizes.values)),
            call.k, call.v, *call.keys(), mask, table.blocks, own.matrix, own.vector, own.through, *strides_of(call.k),
            *strides_of(call.v), mask.stride(0), HAS_MASK=call.mask is not None, BLOCK=sizes.block, BV=sizes.values,
            **call.constants(), num_warps=sizes.warps, num_stages=sizes.stages,
        )  # fmt: skip
    launch(
        scan_keys, (sequences, heads, _scan_tiles(call)),
        own.matrix, own.vector, own.through, *initial_tensors(call, final), table.sequences, states.matrix,
        states.vector, states.before, states.through, final.matrix, final.vector, final.through, FEATURES=call.features,
        VALUES=call.values, CAUSAL=call.causal, LOG=call.log_space, HAS_INITIAL=call.initial is not None,
        BF=SCAN_TILE[0], BV=SCAN_TILE[1], num_warps=4,
    )  # fmt: skip
    return states, final


def query_states(
    call: FusedCall, grad: Tensor, norms: Tensor, pulls: Tensor, keys: tuple[Sums, Sums], last: LinearState | None
) -> tuple[Sums, Sums]:
    """Gives the sums over the queries after each block, and over all queries of a sequence, as `scan_queries` does."""
    table, sizes, heads = call.table, call.sizes, call.k.shape[1]
    blocks, sequences = table.blocks.shape[0], table.sequences.shape[0]
    own = call.state_like(blocks, torch.float32, shifts=False)
    states = call.state_like(blocks if call.causal else 0, state_dtype(call.q.dtype), shifts=False)
    first = call.state_like(sequences, torch.float32, shifts=False)
    peaks = keys[0].before if call.causal else keys[1].through
    counts = (call.q.shape[2], call.q.shape[1] // heads)
    if call.wide:
        launch(
            sum_wide_queries, (blocks, heads, _wide_tiles(call)),
            call.q, grad, norms, pulls, table.blocks, own.matrix, own.vector, *strides_of(call.q), *strides_of(grad),
            *counts, BV=sizes.values, **call.wide_constants(), num_warps=sizes.warps,
        )  # fmt: skip
    else:
        launch(
            sum_queries, (blocks, heads, triton.cdiv(call.values, sizes.values)),
            call.q, grad, *call.queries(), norms, pulls, peaks, table.blocks, own.matrix, own.vector,
            *strides_of(call.q), *strides_of(grad), *counts, CAUSAL=call.causal, BLOCK=sizes.block, BV=sizes.values,
            **call.constants(), num_warps=sizes.warps, num_stages=sizes.stages,
        )  # fmt: skip
    end = first if last is None else Sums(last.kv, last.k, first.before, first.through)
    launch(
        scan_queries, (sequences, heads, _scan_tiles(call)),
        own.matrix, own.vector, end.matrix, end.vector, keys[0].before, keys[0].through, table.sequences,
        states.matrix, states.vector, first.matrix, first.vector, FEATURES=call.features, VALUES=call.values,
        CAUSAL=call.causal, LOG=call.log_space, HAS_LAST=last is not None, BF=SCAN_TILE[0], BV=SCAN_TILE[1],
        num_warps=4,
    )  # fmt: skip
    return states, first


def _wide_tiles(call: FusedCall) -> int:
    return -(-call.features // WIDE_TILE) * -(-call.values // call.sizes.values)


def _scan_tiles(call: FusedCall) -> int:
    return -(-call.features // SCAN_TILE[0]) * -(-call.values // SCAN_TILE[1])
