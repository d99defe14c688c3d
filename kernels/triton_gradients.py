"""Launches the Triton kernels of linear attention with Hedgehog's map inside: the backward pass."""

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from .state import LinearState
from .triton_backward import key_gradients, map_gradients, pull_rows, query_gradients
from .triton_call import FusedCall, Gradients, Sums, launch, mask_of, strides_of
from .triton_sums import key_states, query_states
from .triton_tiles import operands, padded

MAP_SPAN = 1024
"""Tokens over which one program sums the gradient of a map's matrix."""


def backward(
    call: FusedCall, output: Tensor, norms: Tensor, grad: Tensor, grad_final: LinearState | None = None
) -> Gradients:
    """Runs the backward pass.

    Args:
        call: what `forward` was given.
        output: what it gave.
        norms: what it gave.
        grad: of the output, contiguous in its last dimension.
        grad_final: of the state after the last key, contiguous; its log_scale is not read.
    """
    batch, heads, tokens, _ = call.q.shape
    sizes, mask, kv_heads = call.sizes, mask_of(call), call.k.shape[1]
    pulls = torch.zeros_like(norms)
    if call.normalize:
        launch(
            pull_rows, (batch, heads, triton.cdiv(tokens, 64)),
            output, grad, pulls, *strides_of(output), *strides_of(grad), tokens, VALUES=call.values, CHUNK=64,
            BV=padded(call.values),
        )  # fmt: skip
    keys = key_states(call)
    queries = query_states(call, grad, norms, pulls, keys, grad_final)
    before, after = (keys[0], queries[0]) if call.causal else (replace(keys[1], before=keys[1].through), queries[1])
    grad_q, grad_k = (x.new_empty(*x.shape[:3], call.width) for x in (call.q, call.k))
    grad_v = call.v.new_empty(batch, tokens, kv_heads, call.values).transpose(1, 2)
    inputs = (call.q, call.k, call.v, grad, *call.queries(), *call.keys(), mask, norms, pulls, call.table.blocks)
    strides = (*strides_of(call.q), *strides_of(call.k), *strides_of(call.v), *strides_of(grad), mask.stride(0))
    options: dict[str, Any] = {
        "HAS_MASK": call.mask is not None, "CAUSAL": call.causal, "BLOCK": sizes.block, "BV": padded(call.values),
        **call.constants(), "num_warps": sizes.backward_warps, "num_stages": sizes.stages,
    }  # fmt: skip
    chunks, groups = call.table.blocks.shape[0] * (sizes.block // sizes.chunk), heads // kv_heads
    launch(
        query_gradients, (chunks, heads),
        *inputs, before.matrix, before.vector, before.before, before.through, grad_q, *strides, tokens, groups,
        **options,
    )  # fmt: skip
    launch(
        key_gradients, (chunks, kv_heads),
        *inputs, after.matrix, after.vector, before.through, grad_k, grad_v, *strides, *strides_of(grad_v), tokens,
        groups, **options,
    )  # fmt: skip
    q, q_weight, q_bias = _through_map(call, call.q, grad_q, call.q_weight, call.q_bias)
    k, k_weight, k_bias = _through_map(call, call.k, grad_k, call.k_weight, call.k_bias)
    initial = _initial_gradient(call, queries[1], keys[1])
    return Gradients(q, k, grad_v, q_weight, k_weight, q_bias, k_bias, initial)


def _through_map(
    call: FusedCall, x: Tensor, grad_y: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gives the gradients of x, W and b from that of y = Wx + b."""
    if weight is None:
        return grad_y, None, None
    batch, heads, tokens, dim = x.shape
    parts, sizes = triton.cdiv(tokens, MAP_SPAN), call.sizes
    grad_x = x.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    matrices = torch.empty(batch * parts, heads, dim, call.width, dtype=torch.float32, device=x.device)
    vectors = torch.empty(batch * parts, heads, call.width, dtype=torch.float32, device=x.device)
    launch(
        map_gradients, (batch * parts, heads),
        x, grad_y, weight, grad_x, matrices, vectors, *strides_of(x), *strides_of(grad_x), tokens, parts, MAP_SPAN,
        DIM=dim, WIDTH=call.width, HAS_BIAS=bias is not None, CHUNK=sizes.chunk, BD=padded(dim), BW=padded(call.width),
        **operands(x.dtype), num_warps=sizes.backward_warps, num_stages=sizes.stages,
    )  # fmt: skip
    return grad_x, matrices.sum(0).to(weight.dtype), None if bias is None else vectors.sum(0).to(bias.dtype)


def _initial_gradient(call: FusedCall, queries: Sums, keys: Sums) -> LinearState | None:
    if call.initial is None:
        return None
    matrix, vector = queries.matrix, queries.vector
    if call.log_space and not call.causal:
        assert call.initial.log_scale is not None
        kept = (call.initial.log_scale - keys.through).exp()
        matrix, vector = matrix * kept[..., None], vector * kept
    return LinearState(matrix, vector)
