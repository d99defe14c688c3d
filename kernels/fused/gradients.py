"""Launches the Triton kernels of the backward pass of linear attention with Hedgehog's map inside."""

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.launch import launch, strides
from ..triton.operator import empty_by_token
from ..triton.tiles import PROGRAMS, WIDE_TILE, padded
from ..wide.backward_kernels import wide_key_gradients, wide_query_gradients, wide_value_gradients
from .backward_kernels import key_gradients, map_gradients, pull_rows, query_gradients
from .call import Call
from .sums import RowGradients, Sums, key_states, query_states

MAP_SPAN = 1024
"""Tokens, of one sequence or of several short ones, over which one program sums the gradient of a map's matrix."""


def backward(
    call: Call, output: Tensor, norms: Tensor, grad: Tensor, grad_final: LinearState | None = None
) -> dict[str, Tensor]:
    """The gradients of a call's differentiable tensors, by name.

    Args:
        call: the call that `forward` ran.
        output: its output.
        norms: its norms.
        grad: gradient of the output, contiguous in its last dimension.
        grad_final: gradient of the state after the last key, contiguous; its log_scale is not read.
    """
    rows = RowGradients(grad, norms, pulls_of(output, grad) if call.normalize else torch.zeros_like(norms))
    keys = key_states(call)
    queries = query_states(call, rows, keys, grad_final)
    before, after = (keys[0], queries[0]) if call.causal else (replace(keys[1], before=keys[1].through), queries[1])
    grad_q, grad_k, grad_v = _token_gradients(call, rows, before, after)
    found = _through_map(call, "q", grad_q) | _through_map(call, "k", grad_k) | {"v": grad_v}
    return found | _initial_gradients(call, queries[1], keys[1])


def pulls_of(output: Tensor, grad: Tensor) -> Tensor:
    """The product o·do of every row, [b h n] float32: the delta of FlashAttention-2."""
    batch, heads, tokens, values = output.shape
    pulls = torch.empty(batch, heads, tokens, dtype=torch.float32, device=output.device)
    launch(
        pull_rows, (batch * triton.cdiv(tokens, 64), heads),
        output=output, grad=grad, pulls=pulls, **strides(o=output, grad=grad), tokens=tokens,
        VALUES=values, CHUNK=64, BV=padded(values),
    )  # fmt: skip
    return pulls


def _token_gradients(call: Call, rows: RowGradients, before: Sums, after: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of y = Wq + b, of y = Wk + b (without a map, of the features) and of v."""
    (batch, heads, tokens, values), sizes, chunks = call.v.shape, call.sizes, call.chunks
    grad_q, grad_k = (x.new_empty(*x.shape[:3], call.width) for x in (call.q, call.k))
    grad_v = empty_by_token(call.v, batch, heads, tokens, values)
    shared = call.shared | rows.shared | strides(dv=grad_v) | {
        "blocks": call.table.blocks, "peaks_before": before.before, "peaks_through": before.through,
    }  # fmt: skip
    options: dict[str, Any] = {"num_warps": sizes.backward_warps, "num_stages": sizes.stages}
    of_queries = {"states": before.matrix, "state_keys": before.vector, "grad_y": grad_q}
    of_keys = {"states": after.matrix, "state_queries": after.vector, "grad_y": grad_k}
    if not call.wide:
        launch(query_gradients, (chunks, call.q.shape[1]), shared=shared, **of_queries, **options)
        launch(key_gradients, (chunks, heads), shared=shared, **of_keys, grad_v=grad_v, **options)
        return grad_q, grad_k, grad_v
    parts, tiles = triton.cdiv(call.features, WIDE_TILE), triton.cdiv(values, sizes.values)
    launch(wide_query_gradients, (chunks, call.q.shape[1], parts), shared=shared, **of_queries, **options)
    launch(wide_key_gradients, (chunks, heads, parts), shared=shared, **of_keys, **options)
    launch(
        wide_value_gradients, (chunks, heads, tiles), shared=shared,
        states=after.matrix, grad_v=grad_v, C=replace(call.constants, BV=sizes.values), **options,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def _through_map(call: Call, name: str, grad_y: Tensor) -> dict[str, Tensor]:
    """The gradients of q or k, and of its W and b, from that of y = Wx + b."""
    x: Tensor = getattr(call, name)
    weight, bias = getattr(call, f"{name}_weight"), getattr(call, f"{name}_bias")
    if weight is None:
        return {name: grad_y}
    batch, heads, tokens, dim = x.shape
    # One program sums several short sequences: fewer partial sums of dW, but still enough programs to fill the device.
    entries = max(1, min(MAP_SPAN // tokens, batch * heads // PROGRAMS))
    parts = triton.cdiv(tokens, MAP_SPAN)
    programs = triton.cdiv(batch, entries) * parts
    grad_x = empty_by_token(x, batch, heads, tokens, dim)
    matrices = torch.empty(programs, heads, dim, call.width, dtype=torch.float32, device=x.device)
    vectors = torch.empty(programs, heads, call.width, dtype=torch.float32, device=x.device)
    launch(
        map_gradients, (programs, heads), shared=call.shared,
        x=x, grad_y=grad_y, weight=weight, grad_x=grad_x, grad_weight=matrices, grad_bias=vectors,
        **strides(x=x, dx=grad_x), batches=batch, tokens=tokens, parts=parts, span=MAP_SPAN, entries=entries,
        MASKED=name == "k" and call.mask is not None,
        num_warps=call.sizes.backward_warps, num_stages=call.sizes.stages,
    )  # fmt: skip
    found = {name: grad_x, f"{name}_weight": matrices.sum(0).to(weight.dtype)}
    return found if bias is None else found | {f"{name}_bias": vectors.sum(0).to(bias.dtype)}


def _initial_gradients(call: Call, queries: Sums, keys: Sums) -> dict[str, Tensor]:
    """The gradients of the sums of the initial state; without causality their shift is that of the last key."""
    if call.initial is None:
        return {}
    matrix, vector = queries.matrix, queries.vector
    if call.log_space and not call.causal:
        assert call.initial_scale is not None
        kept = (call.initial_scale - keys.through).exp()
        matrix, vector = matrix * kept[..., None], vector * kept
    return {"initial_kv": matrix, "initial_k": vector}
