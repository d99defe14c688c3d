"""Launches the Triton kernels of the sliding-window hybrid: linear attention on delayed keys, then the window.

A query at token i sees far keys up to token i - w. Linear attention of the queries from token w on over the first n - w
keys is therefore causal. Its gradients are those of linear attention whose rows have the shared normaliser.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ..fused.call import Call
from ..fused.gradients import backward
from ..fused.launch import Forward, forward, segment_states
from ..state import LinearState
from ..triton.launch import by_head, launch
from ..triton.operator import empty_by_token, rows_contiguous
from .call import HybridCall
from .kernels import attend_to_window, window_key_gradients, window_query_gradients

NO_FEATURE = 1e-30
"""The eps of the linear part: the divisor of a row whose far scores are all zero. Its share beside any window is 0."""

_OPTIONS = {"num_warps": 8, "num_stages": 1}


@dataclass(frozen=True)
class HybridRows:
    """The results of the forward pass for each row, all of which the backward pass needs.

    Attributes:
        output: [b h n dv].
        norms: [b h n], logarithm of the shared normaliser, M.
        shifts: [b h n], c: the largest z of each window, or 0.
        peaks: [b h n] int32, position of the first key with the largest z; the largest int32 without one.
    """

    output: Tensor
    norms: Tensor
    shifts: Tensor
    peaks: Tensor

    def readable(self) -> "HybridRows":
        """The rows as kernels read them: contiguous, the output in its last dimension."""
        others = (x.contiguous() for x in (self.norms, self.shifts, self.peaks))
        return HybridRows(rows_contiguous(self.output), *others)


def hybrid_forward(call: HybridCall) -> tuple[HybridRows, LinearState]:
    """The rows, and the sums over the keys that have left the window."""
    batch, heads, tokens, _ = call.q.shape
    ran = forward(_far_call(call))
    output = empty_by_token(call.v, batch, heads, tokens, call.v.shape[-1])
    norms, shifts = (torch.empty(batch, heads, tokens, dtype=torch.float32, device=output.device) for _ in range(2))
    peaks = torch.empty(batch, heads, tokens, dtype=torch.int32, device=output.device)
    launch(
        attend_to_window, (triton.cdiv(tokens, call.rows), heads, batch), shared=call.shared,
        far=by_head(ran.output), far_logs=ran.norms if call.log_space else ran.norms.log(),
        output=by_head(output), norms=norms, shifts=shifts, peaks=peaks, **_OPTIONS,
    )  # fmt: skip
    return HybridRows(output, norms, shifts, peaks), ran.final


def hybrid_backward(call: HybridCall, rows: HybridRows, grad: Tensor) -> dict[str, Tensor]:
    """The gradients of a call's differentiable tensors, by name.

    Args:
        call: the call that `hybrid_forward` ran.
        rows: its rows, `readable`.
        grad: gradient of the output.
    """
    grad = rows_contiguous(grad)
    batch, heads, tokens, _ = call.q.shape
    tiles = triton.cdiv(tokens, call.rows)
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (call.q, call.k, call.v))
    summed = torch.empty_like(rows.norms)
    shared: dict[str, Any] = call.shared | {
        "grad": by_head(grad), "pulls": (rows.output.float() * grad).sum(-1), "norms": rows.norms,
        "shifts": rows.shifts, "peaks": rows.peaks, "row_sums": summed,
    }  # fmt: skip
    launch(window_query_gradients, (tiles, heads, batch), shared=shared, grad_q=by_head(grad_q), **_OPTIONS)
    launch(
        window_key_gradients, (tiles, call.k.shape[1], batch), shared=shared, grad_k=by_head(grad_k),
        grad_v=by_head(grad_v), **_OPTIONS,
    )  # fmt: skip
    late_output, late_grad = (x[:, :, call.window :].to(call.far_q.dtype) for x in (rows.output, grad))
    norms, far_call = rows.norms[:, :, call.window :], _far_call(call)
    norms, sums = (norms if call.log_space else norms.exp()).contiguous(), segment_states(far_call)
    far = backward(far_call, Forward(late_output, norms, sums, sums), late_grad)
    grad_v[:, :, : call.far_tokens] += far["v"]
    gate = summed.sum((0, 2)).to(call.gate_log.dtype)
    return {"q": grad_q, "k": grad_k, "v": grad_v, "far_q": far["q"], "far_k": far["k"], "gate_log": gate}


def _far_call(call: HybridCall) -> Call:
    """Linear attention of the late queries over the keys that have left their windows."""
    return Call(
        call.far_q, call.far_k, call.v[:, :, : call.far_tokens].to(call.far_q.dtype), mask=call.far_mask,
        log_space=call.log_space, eps=NO_FEATURE, form="chunk", tiles=call.tiles,
    ).readable()  # fmt: skip
