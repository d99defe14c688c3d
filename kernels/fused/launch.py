"""Launches the Triton kernels of the forward pass and of decoding, for linear attention with Hedgehog's map inside."""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.forward import attend
from ..triton.launch import launch, stand_in, strides
from ..triton.operator import empty_by_token
from ..triton.tiles import padded
from ..wide.kernels import attend_wide
from .call import Call
from .decode_kernel import decode_tokens
from .one_pass_kernel import attend_sequentially
from .sums import Sums, empty_sums, key_states

DECODE_VALUES = 32
"""Columns of a state that one program of the decode kernel holds."""


@dataclass(frozen=True)
class Forward:
    """Results of a forward pass.

    Attributes:
        output: [b h n dv].
        norms: [b h n], the denominator of each row, or its logarithm in log space, for the backward pass (see
            `triton.forward.finish`). After `decode`, which has no backward pass, it is of no use.
        final: the state after the last key.
    """

    output: Tensor
    norms: Tensor
    final: LinearState


def forward(call: Call) -> Forward:
    """Runs the forward pass of a `readable` call in the form "fused_chunk" (causal calls only) or "chunk"."""
    batch, heads, tokens, _ = call.q.shape
    output = empty_by_token(call.v, batch, heads, tokens, call.values)
    norms = torch.empty(batch, heads, tokens, dtype=torch.float32, device=call.q.device)
    run = _in_one_pass if call.form == "fused_chunk" else _in_two_passes
    final = run(call, output, norms)
    scale = final.through if call.log_space else None
    return Forward(output, norms, LinearState(final.matrix, final.vector, scale))


def _in_one_pass(call: Call, output: Tensor, norms: Tensor) -> Sums:
    final, tile = empty_sums(call, call.sequences, torch.float32), min(call.sizes.values, padded(call.values))
    launch(
        attend_sequentially, (call.sequences, call.q.shape[1], triton.cdiv(call.values, tile)), shared=call.shared,
        spans=call.table.spans, output=output, norms=norms, **strides(o=output),
        final=final.matrix, final_keys=final.vector, final_peaks=final.through,
        C=replace(call.constants, BV=tile), num_warps=call.sizes.warps, num_stages=call.sizes.stages,
    )  # fmt: skip
    return final


def _in_two_passes(call: Call, output: Tensor, norms: Tensor) -> Sums:
    states, final = key_states(call)
    used, sizes = states if call.causal else replace(final, before=final.through), call.sizes
    peaks = {"peaks_before": used.before, "peaks_through": used.through}
    launch(
        attend_wide if call.wide else attend,
        (call.chunks, call.q.shape[1], triton.cdiv(call.values, sizes.values)),
        shared=call.shared | peaks,
        blocks=call.table.blocks, states=used.matrix, state_keys=used.vector, output=output, norms=norms,
        **strides(o=output), C=replace(call.constants, BV=sizes.values), num_warps=sizes.warps,
        num_stages=sizes.stages,
    )  # fmt: skip
    return final


def decode(call: Call, *, in_place: bool = False) -> Forward:
    """Decodes a few tokens of a causal call with an initial state, one sequence for each batch entry, without a mask.

    Args:
        call: a `readable` call.
        in_place: the new `kv` overwrites that of the initial state, which must be contiguous and float32. The other
            sums are written to new tensors.

    Raises:
        ValueError: a call without an initial state.
    """
    old = call.initial
    if old is None:
        raise ValueError("decoding needs an initial state")
    batch, heads, tokens, _ = call.q.shape
    tile = min(DECODE_VALUES, padded(call.values))
    output = empty_by_token(call.v, batch, heads, tokens, call.values)
    kv = old.kv if in_place else torch.empty_like(call.shared["initial"])
    keys = torch.empty_like(call.shared["initial_keys"])
    peaks = torch.empty_like(keys) if call.log_space else None
    launch(
        decode_tokens, (batch, call.k.shape[1], triton.cdiv(call.values, tile)), shared=call.shared,
        new_state=kv, new_keys=keys, new_peaks=stand_in(peaks, keys), output=output, **strides(o=output),
        C=replace(call.constants, BV=tile), num_warps=4,
    )  # fmt: skip
    return Forward(output, keys, LinearState(kv, keys, peaks))
