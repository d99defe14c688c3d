"""Launches the Triton kernels of the sliding-window hybrid: linear attention on delayed keys, then the window.

A query at token i reads far keys up to token i - w: linear attention of the queries from token w on over the first
n - w keys is causal again. Its gradients are those of linear attention whose rows have the shared normaliser.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..fused.backward_kernels import pull_rows
from ..fused.call import FusedCall, Gradients, launch, stand_in, strides_of
from ..fused.gradients import backward
from ..fused.launch import forward
from ..fused.operands import rows_contiguous
from ..state import LinearState
from ..triton.tiles import Tiles, operands, padded
from .kernels import attend_to_window, window_key_gradients, window_query_gradients
from .tensors import HybridOptions, HybridTensors

NO_FEATURE = 1e-30
"""Divisor of a row whose features are all zero: under any window, as a share of the normaliser, it is nothing."""


class HybridRows(NamedTuple):
    """What the forward pass gives of each row, all of which the backward pass needs.

    Attributes:
        output: [b h n dv].
        norms: [b h n], logarithm of the shared normaliser.
        shifts: [b h n], the largest z of each window, or 0.
        peaks: [b h n] int32, the first key that has it, or the largest int32.
    """

    output: Tensor
    norms: Tensor
    shifts: Tensor
    peaks: Tensor


def hybrid_forward(
    given: HybridTensors, options: HybridOptions, tiles: Tiles | None = None
) -> tuple[HybridRows, LinearState]:
    """Gives the rows, and the sums over the keys that have left the window.

    Args:
        given: the call's tensors.
        options: the rest.
        tiles: of the linear part and of the window, unless their own.
    """
    q, k, v = (rows_contiguous(x) for x in given[:3])
    batch, heads, tokens, _ = q.shape
    ran = forward(_far_call(given, options, tiles), "chunk")
    far_logs = ran.norms if options.log_space else ran.norms.log()
    output = v.new_empty(batch, tokens, heads, v.shape[-1]).transpose(1, 2)
    norms, shifts = (torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device) for _ in range(2))
    peaks = torch.empty(batch, heads, tokens, dtype=torch.int32, device=q.device)
    constants = _constants(given, options, tiles)
    launch(
        attend_to_window, (triton.cdiv(tokens, constants["ROWS"]), heads, batch),
        q, k, v, _mask(given), _gate(given), ran.output, far_logs, output, norms, shifts, peaks, *strides_of(q),
        *strides_of(k), *strides_of(v), _mask(given).stride(0), *strides_of(ran.output), *strides_of(output), tokens,
        heads // k.shape[1], options.scale, **constants,
    )  # fmt: skip
    return HybridRows(output, norms, shifts, peaks), ran.final


def hybrid_backward(
    given: HybridTensors, options: HybridOptions, ran: HybridRows, grad: Tensor, tiles: Tiles | None = None
) -> list[Tensor]:
    """Gives the gradients of the differentiable tensors, in their order; what `hybrid_forward` was given and gave goes
    in, its rows contiguous."""
    q, k, v = (rows_contiguous(x) for x in given[:3])
    batch, heads, tokens, _ = q.shape
    kv_heads, grad, pulls = k.shape[1], rows_contiguous(grad), torch.empty_like(ran.norms)
    constants = _constants(given, options, tiles)
    rows = constants["ROWS"]
    launch(
        pull_rows, (batch * triton.cdiv(tokens, 64), heads),
        ran.output, grad, pulls, *strides_of(ran.output), *strides_of(grad), tokens, VALUES=v.shape[-1], CHUNK=64,
        BV=padded(v.shape[-1]),
    )  # fmt: skip
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    summed = torch.empty_like(ran.norms)
    inputs = (q, k, v, _mask(given), grad, _gate(given), pulls, ran.norms, ran.shifts, ran.peaks)
    strides = (*strides_of(q), *strides_of(k), *strides_of(v), *strides_of(grad), _mask(given).stride(0))
    sizes = (tokens, heads // kv_heads, options.scale)
    launch(
        window_query_gradients, (triton.cdiv(tokens, rows), heads, batch),
        *inputs, grad_q, summed, *strides, *strides_of(grad_q), *sizes, **constants,
    )  # fmt: skip
    launch(
        window_key_gradients, (triton.cdiv(tokens, rows), kv_heads, batch),
        *inputs, summed, grad_k, grad_v, *strides, *strides_of(grad_k), *strides_of(grad_v), *sizes, **constants,
    )  # fmt: skip
    far = _far_gradients(given, options, ran, grad, tiles)
    grad_v[:, :, : far.v.shape[2]] += far.v
    return [grad_q, grad_k, grad_v, far.q, far.k, summed.sum((0, 2)).to(given.gate_log.dtype)]


def _far_gradients(
    given: HybridTensors, options: HybridOptions, ran: HybridRows, grad: Tensor, tiles: Tiles | None
) -> Gradients:
    call = _far_call(given, options, tiles)
    late = slice(options.window, None)
    norms = ran.norms[:, :, late]
    output, grad = ran.output[:, :, late].to(call.v.dtype), grad[:, :, late].to(call.v.dtype)
    return backward(call, output, (norms if options.log_space else norms.exp()).contiguous(), grad)


def _far_call(given: HybridTensors, options: HybridOptions, tiles: Tiles | None) -> FusedCall:
    """Linear attention of the late queries over the keys that have left their windows."""
    tokens = given.far_q.shape[2]
    far_q, far_k, v = (rows_contiguous(x.to(given.far_q.dtype)) for x in (given.far_q, given.far_k, given.v))
    return FusedCall(
        q=far_q, k=far_k, v=v[:, :, :tokens], q_weight=None, k_weight=None, q_bias=None, k_bias=None,
        feature_map="identity", negate=False, causal=True, normalize=True, eps=NO_FEATURE,
        mask=None if given.mask is None else given.mask[:, :tokens].contiguous(), cu_seqlens=None, initial=None,
        log_space=options.log_space, tiles=tiles,
    )  # fmt: skip


def _gate(given: HybridTensors) -> Tensor:
    return given.gate_log.contiguous()


def _mask(given: HybridTensors) -> Tensor:
    return stand_in(None if given.mask is None else given.mask.contiguous().view(torch.uint8), given.q)


def _constants(given: HybridTensors, options: HybridOptions, tiles: Tiles | None) -> dict[str, Any]:
    dim, values = given.q.shape[-1], given.v.shape[-1]
    rows = 64 if given.q.dtype == torch.bfloat16 and max(padded(dim), padded(values)) <= 128 else 32
    return {
        "WINDOW": options.window, "DIM": dim, "VALUES": values, "HAS_MASK": given.mask is not None,
        "SHIFT": options.shift_window, "ROWS": tiles.chunk if tiles else rows, "BD": padded(dim), "BV": padded(values),
        **operands(given.q.dtype), "num_warps": 8, "num_stages": 1,
    }  # fmt: skip
