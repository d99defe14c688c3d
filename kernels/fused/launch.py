"""Launches the Triton kernels of linear attention with Hedgehog's map inside: the forward pass, and decoding."""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.forward import attend
from ..triton.tiles import padded
from ..wide.kernels import attend_wide
from .call import Forward, FusedCall, Sums, initial_tensors, launch, mask_of, stand_in, strides_of
from .decode_kernel import decode_tokens
from .one_pass_kernel import attend_sequentially
from .sums import key_states

DECODE_VALUES = 32
"""Columns of a state that one program of the decode kernel holds."""


def forward(call: FusedCall, form: str) -> Forward:
    """Runs the forward pass.

    Args:
        call: contiguous in their last dimension.
        form: "fused_chunk" (causal calls only) or "chunk".
    """
    batch, heads, tokens, _ = call.q.shape
    output = call.v.new_empty(batch, tokens, heads, call.values).transpose(1, 2)
    norms = torch.empty(batch, heads, tokens, dtype=torch.float32, device=call.q.device)
    run = _forward_in_one_pass if form == "fused_chunk" else _forward_in_two_passes
    final = run(call, output, norms)
    scale = final.through if call.log_space else None
    return Forward(output, norms, LinearState(final.matrix, final.vector, scale), form)


def _forward_in_one_pass(call: FusedCall, output: Tensor, norms: Tensor) -> Sums:
    sequences, heads = call.table.spans.shape[0], call.q.shape[1]
    final = call.state_like(sequences, torch.float32)
    sizes, mask = call.sizes, mask_of(call)
    tile = min(sizes.values, padded(call.values))
    launch(
        attend_sequentially, (sequences, heads, triton.cdiv(call.values, tile)),
        call.q, call.k, call.v, *call.queries(), *call.keys(), mask, call.table.spans, *initial_tensors(call, final),
        output, norms, final.matrix, final.vector, final.through, *strides_of(call.q), *strides_of(call.k),
        *strides_of(call.v), mask.stride(0), *strides_of(output), call.q.shape[2], heads // call.k.shape[1], call.eps,
        HAS_MASK=call.mask is not None, NORMALIZE=call.normalize, HAS_INITIAL=call.initial is not None, BV=tile,
        **call.constants(), num_warps=sizes.warps, num_stages=sizes.stages,
    )  # fmt: skip
    return final


def _forward_in_two_passes(call: FusedCall, output: Tensor, norms: Tensor) -> Sums:
    states, final = key_states(call)
    used = states if call.causal else replace(final, before=final.through)
    blocks, heads, sizes, mask = call.table.blocks.shape[0], call.q.shape[1], call.sizes, mask_of(call)
    if call.wide:
        launch(
            attend_wide, (blocks * (sizes.block // sizes.chunk), heads, triton.cdiv(call.values, sizes.values)),
            call.q, call.k, call.v, mask, call.table.blocks, used.matrix, used.vector, output, norms,
            *strides_of(call.q), *strides_of(call.k), *strides_of(call.v), mask.stride(0), *strides_of(output),
            call.q.shape[2], heads // call.k.shape[1], call.eps, HAS_MASK=call.mask is not None, CAUSAL=call.causal,
            NORMALIZE=call.normalize, BV=sizes.values, **call.wide_constants(), num_warps=sizes.warps,
        )  # fmt: skip
        return final
    launch(
        attend, (blocks * (sizes.block // sizes.chunk), heads, triton.cdiv(call.values, sizes.values)),
        call.q, call.k, call.v, *call.queries(), *call.keys(), mask, call.table.blocks, used.matrix, used.vector,
        used.before, used.through, output, norms, *strides_of(call.q), *strides_of(call.k), *strides_of(call.v),
        mask.stride(0), *strides_of(output), call.q.shape[2], heads // call.k.shape[1], call.eps,
        HAS_MASK=call.mask is not None, CAUSAL=call.causal, NORMALIZE=call.normalize, BLOCK=sizes.block,
        BV=sizes.values, **call.constants(), num_warps=sizes.warps, num_stages=sizes.stages,
    )  # fmt: skip
    return final


def decode(call: FusedCall, state: LinearState, kv: Tensor) -> Forward:
    """Decodes a few tokens.

    Args:
        call: causal, one sequence for each batch entry, without a mask.
        state: contiguous float32 sums over the tokens before these.
        kv: where the new sums go; `state.kv` itself to change it in place.
    """
    batch, heads, tokens, _ = call.q.shape
    kv_heads, tile = call.k.shape[1], min(DECODE_VALUES, padded(call.values))
    output = call.v.new_empty(batch, tokens, heads, call.values).transpose(1, 2)
    keys, peaks = torch.empty_like(state.k), None if state.log_scale is None else torch.empty_like(state.log_scale)
    constants = call.constants()
    for unread in ("CHUNK", "OPERAND", "PRECISION"):
        del constants[unread]
    launch(
        decode_tokens, (batch, kv_heads, triton.cdiv(call.values, tile)),
        call.q, call.k, call.v, *call.queries(), *call.keys(), state.kv, state.k, stand_in(state.log_scale, state.k),
        kv, keys, stand_in(peaks, keys), output, *strides_of(call.q), *strides_of(call.k), *strides_of(call.v),
        *strides_of(output), tokens, heads // kv_heads, call.eps, NORMALIZE=call.normalize, BV=tile, **constants,
        num_warps=4,
    )  # fmt: skip
    return Forward(output, keys, LinearState(kv, keys, peaks), "fused_recurrent")
