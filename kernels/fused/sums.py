"""Launches the kernels of `triton.states`: sums of blocks, and the scans over them.

The sums of each block are float32, so the scans add in float32. Only the sums that products read are stored in the type
of the products.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.launch import launch, strides
from ..triton.states import scan_keys, scan_queries, sum_keys, sum_queries
from ..triton.tiles import WIDE_TILE, Constants, state_dtype
from ..wide.kernels import sum_wide_keys, sum_wide_queries
from .call import Call

SCAN_TILE = (16, 64)
"""Features and values of a state that one program of the scans carries."""


@dataclass(frozen=True)
class Sums:
    """Sums of `count` blocks or sequences, over keys or over queries.

    Attributes:
        matrix: [count hk f dv], over keys Σ φ(k) vᵀ, over queries Σ φ(q) gᵀ (see `triton.states.sum_queries`).
        vector: [count hk f], over keys Σ φ(k), over queries Σ φ(q) h.
        before: [count hk f], shift of the keys before a block.
        through: [count hk f], shift of the keys up to the end of the block.
    """

    matrix: Tensor
    vector: Tensor
    before: Tensor
    through: Tensor


@dataclass(frozen=True)
class RowGradients:
    """The gradient of each query row, and two numbers per row that the backward pass needs with it.

    Attributes:
        grad: [b h n dv], gradient of the output.
        norms: [b h n], norms from the forward pass.
        pulls: [b h n], o·do.
    """

    grad: Tensor
    norms: Tensor
    pulls: Tensor

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments of the kernels, by name."""
        return {"grad": self.grad, **strides(grad=self.grad), "norms": self.norms, "pulls": self.pulls}


def empty_sums(call: Call, count: int, dtype: torch.dtype, *, shifts: bool = True) -> Sums:
    """Uninitialised sums for `count` blocks or sequences, in separate tensors, as an operator may return them.

    Outside log space, or without `shifts`, no kernel reads a shift, and the vector takes the place of both.
    """
    shape = (count, call.k.shape[1], call.features)
    matrix = torch.empty(*shape, call.values, dtype=dtype, device=call.q.device)
    vector = torch.empty(shape, dtype=torch.float32, device=call.q.device)
    if not (shifts and call.log_space):
        return Sums(matrix, vector, vector, vector)
    return Sums(matrix, vector, torch.empty_like(vector), torch.empty_like(vector))


def key_states(call: Call) -> tuple[Sums, Sums]:
    """The sums over the keys before each block (none if the call is not causal), and over all keys of each sequence."""
    blocks = call.table.blocks.shape[0]
    own = empty_sums(call, blocks, torch.float32)
    states = empty_sums(call, blocks if call.causal else 0, state_dtype(call.q.dtype))
    final = empty_sums(call, call.sequences, torch.float32)
    shared = call.shared | {"blocks": call.table.blocks, "peaks": own.through}
    launch(
        sum_wide_keys if call.wide else sum_keys, _sum_grid(call), shared=shared,
        sums=own.matrix, key_sums=own.vector, **_sum_options(call),
    )  # fmt: skip
    launch(
        scan_keys, _scan_grid(call), shared=shared,
        sums=own.matrix, key_sums=own.vector, sequences=call.table.sequences,
        states=states.matrix, state_keys=states.vector, peaks_before=states.before, peaks_through=states.through,
        final=final.matrix, final_keys=final.vector, final_peaks=final.through,
        C=_scan_constants(call), num_warps=4,
    )  # fmt: skip
    return states, final


def query_states(
    call: Call, rows: RowGradients, keys: tuple[Sums, Sums], last: LinearState | None
) -> tuple[Sums, Sums]:
    """The sums of `scan_queries` over the queries after each block, and over all queries of each sequence.

    Args:
        call: the call.
        rows: gradients of its query rows.
        keys: result of `key_states`.
        last: gradient of the state after the last key, if there is one.
    """
    blocks, (before, final) = call.table.blocks.shape[0], keys
    own = empty_sums(call, blocks, torch.float32, shifts=False)
    states = empty_sums(call, blocks if call.causal else 0, state_dtype(call.q.dtype), shifts=False)
    first = empty_sums(call, call.sequences, torch.float32, shifts=False)
    end = LinearState(first.matrix, first.vector) if last is None else last
    peaks = before.before if call.causal else final.through
    shared = call.shared | rows.shared | {"blocks": call.table.blocks, "peaks": peaks}
    launch(
        sum_wide_queries if call.wide else sum_queries, _sum_grid(call), shared=shared,
        sums=own.matrix, query_sums=own.vector, **_sum_options(call),
    )  # fmt: skip
    launch(
        scan_queries, _scan_grid(call), shared=shared,
        sums=own.matrix, query_sums=own.vector, last=end.kv, last_queries=end.k, HAS_LAST=last is not None,
        sequences=call.table.sequences, states=states.matrix, state_queries=states.vector,
        peaks_before=before.before, peaks_through=before.through,
        first_state=first.matrix, first_queries=first.vector, C=_scan_constants(call), num_warps=4,
    )  # fmt: skip
    return states, first


def _sum_grid(call: Call) -> tuple[int, int, int]:
    """The grid of the sums of blocks: blocks, kv heads, and tiles of values, or of wide features and values."""
    tiles = triton.cdiv(call.values, call.sizes.values)
    parts = triton.cdiv(call.features, WIDE_TILE) if call.wide else 1
    return call.table.blocks.shape[0], call.k.shape[1], parts * tiles


def _sum_options(call: Call) -> dict[str, Any]:
    constants = replace(call.constants, BV=call.sizes.values)
    return {"C": constants, "num_warps": call.sizes.warps, "num_stages": call.sizes.stages}


def _scan_grid(call: Call) -> tuple[int, int, int]:
    tiles = triton.cdiv(call.features, SCAN_TILE[0]) * triton.cdiv(call.values, SCAN_TILE[1])
    return call.sequences, call.k.shape[1], tiles


def _scan_constants(call: Call) -> Constants:
    return replace(call.constants, BF=SCAN_TILE[0], BV=SCAN_TILE[1])
