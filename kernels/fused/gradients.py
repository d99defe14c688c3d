"""Launches the Triton kernels of the backward pass of linear attention with Hedgehog's map inside."""

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.launch import launch, stand_in, strides
from ..triton.operator import empty_by_token
from ..triton.tiles import PROGRAMS, padded
from .call import Call
from .key_kernels import key_walk, map_gradients
from .launch import Forward, empty_sums, segment_sums
from .query_kernels import query_walk, sum_queries
from .wide import wide_backward

MAP_SPAN = 1024
"""Fewest tokens, of one sequence or of several short ones, over which a program sums the gradient of a map's matrix."""


def backward(call: Call, ran: Forward, grad: Tensor, grad_final: LinearState | None = None) -> dict[str, Tensor]:
    """The gradients of a call's differentiable tensors, by name.

    Args:
        call: the call that `forward` ran, in the same form.
        ran: its results; of the final state only the log_scale is read.
        grad: gradient of the output, contiguous in its last dimension.
        grad_final: gradient of the state after the last key, contiguous; its log_scale is not read.
    """
    (batch, kv_heads, tokens, values), heads = call.v.shape, call.q.shape[1]
    grad_q, grad_k = (x.new_empty(*x.shape[:3], call.width) for x in (call.q, call.k))
    grad_v = empty_by_token(call.v, batch, kv_heads, tokens, values)
    if call.wide:
        initial = wide_backward(call, ran.output, ran.norms, grad, grad_final, (grad_q, grad_k, grad_v))
        return {"q": grad_q, "k": grad_k, "v": grad_v} | initial
    queries = empty_sums(call, call.kept_slots, peaks=False)
    first = empty_sums(call, call.sequences if call.initial else 0, peaks=False)
    last = first if grad_final is None else grad_final
    pulls = torch.empty_like(ran.norms) if call.normalize else torch.zeros_like(ran.norms)
    shared: dict[str, Any] = call.shared | segment_sums(ran.segments) | {
        "grad": grad, "norms": ran.norms, "pulls": pulls, "query_sums": queries.kv, "query_units": queries.k,
        **strides(o=ran.output, grad=grad, dv=grad_v),
    }  # fmt: skip
    options: dict[str, Any] = {"num_warps": call.sizes.backward_warps, "num_stages": call.sizes.stages}
    launch(query_walk, (call.slots, heads), shared=shared, output=ran.output, grad_y=grad_q, **options)
    if call.kept_slots:
        tile = min(call.sizes.values, padded(values))
        launch(
            sum_queries, (call.slots, kv_heads, triton.cdiv(values, tile)), shared=shared,
            C=replace(call.constants, BV=tile), **options,
        )  # fmt: skip
    launch(
        key_walk, (call.slots, kv_heads), shared=shared,
        final_peaks=stand_in(ran.final.log_scale, pulls), last=last.kv, last_units=last.k,
        HAS_LAST=grad_final is not None, grad_y=grad_k, grad_v=grad_v, grad_initial=first.kv, grad_initial_keys=first.k,
        **options | {"num_stages": 1},
    )  # fmt: skip
    found = _through_map(call, "q", grad_q) | _through_map(call, "k", grad_k) | {"v": grad_v}
    return found | ({} if call.initial is None else {"initial_kv": first.kv, "initial_k": first.k})


def _through_map(call: Call, name: str, grad_y: Tensor) -> dict[str, Tensor]:
    """The gradients of q or k, and of its W and b, from that of y = Wx + b."""
    x: Tensor = getattr(call, name)
    weight, bias = getattr(call, f"{name}_weight"), getattr(call, f"{name}_bias")
    if weight is None:
        return {name: grad_y}
    batch, heads, tokens, dim = x.shape
    # One program sums several short sequences, or a long part of a long one: partial sums of dW are few, but there are
    # enough programs to fill the device.
    entries = max(1, min(MAP_SPAN // tokens, batch * heads // PROGRAMS))
    parts = min(triton.cdiv(tokens, MAP_SPAN), max(1, 2 * PROGRAMS // (triton.cdiv(batch, entries) * heads)))
    span = triton.cdiv(triton.cdiv(tokens, parts), call.sizes.chunk) * call.sizes.chunk
    parts = triton.cdiv(tokens, span)
    programs = triton.cdiv(batch, entries) * parts
    grad_x = empty_by_token(x, batch, heads, tokens, dim)
    matrices = torch.empty(programs, heads, dim, call.width, dtype=torch.float32, device=x.device)
    vectors = torch.empty(programs, heads, call.width, dtype=torch.float32, device=x.device)
    launch(
        map_gradients, (programs, heads), shared=call.shared,
        x=x, grad_y=grad_y, weight=weight, grad_x=grad_x, grad_weight=matrices, grad_bias=vectors,
        **strides(x=x, dx=grad_x), batches=batch, tokens=tokens, parts=parts, span=span, entries=entries,
        MASKED=name == "k" and call.mask is not None,
        num_warps=call.sizes.backward_warps, num_stages=call.sizes.stages,
    )  # fmt: skip
    found = {name: grad_x, f"{name}_weight": matrices.sum(0).to(weight.dtype)}
    return found if bias is None else found | {f"{name}_bias": vectors.sum(0).to(bias.dtype)}
