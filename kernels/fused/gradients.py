"""Launches the Triton kernels of linear attention with Hedgehog's map inside: the backward pass."""

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from ..state import LinearState
from ..triton.tiles import WIDE_TILE, operands, padded
from ..wide.backward_kernels import wide_key_gradients, wide_query_gradients, wide_value_gradients
from .backward_kernels import key_gradients, map_gradients, pull_rows, query_gradients
from .call import FusedCall, Gradients, Sums, launch, mask_of, strides_of
from .sums import key_states, query_states
from .tensors import PROGRAMS

MAP_SPAN = 1024
"""Tokens over which one program sums the gradient of a map's matrix: of one sequence, or of several short ones."""


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
    pulls = torch.zeros_like(norms)
    if call.normalize:
        launch(
            pull_rows, (batch * triton.cdiv(tokens, 64), heads),
            output, grad, pulls, *strides_of(output), *strides_of(grad), tokens, VALUES=call.values, CHUNK=64,
            BV=padded(call.values),
        )  # fmt: skip
    keys = key_states(call)
    queries = query_states(call, grad, norms, pulls, keys, grad_final)
    before, after = (keys[0], queries[0]) if call.causal else (replace(keys[1], before=keys[1].through), queries[1])
    of_tokens = _wide_gradients if call.wide else _gradients
    grad_q, grad_k, grad_v = of_tokens(call, grad, (norms, pulls), before, after)
    q, q_weight, q_bias = _through_map(call, call.q, grad_q, call.q_weight, call.q_bias)
    k, k_weight, k_bias = _through_map(call, call.k, grad_k, call.k_weight, call.k_bias)
    initial = _initial_gradient(call, queries[1], keys[1])
    return Gradients(q, k, grad_v, q_weight, k_weight, q_bias, k_bias, initial)


def _gradients(
    call: FusedCall, grad: Tensor, rows: tuple[Tensor, Tensor], before: Sums, after: Sums
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives the gradients of y = Wq + b, of y = Wk + b and of v."""
    heads, kv_heads, tokens, sizes, mask = call.q.shape[1], call.k.shape[1], call.q.shape[2], call.sizes, mask_of(call)
    grad_q, grad_k, grad_v = _empty(call)
    inputs = (call.q, call.k, call.v, grad, *call.queries(), *call.keys(), mask, *rows, call.table.blocks)
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
    return grad_q, grad_k, grad_v


def _wide_gradients(
    call: FusedCall, grad: Tensor, rows: tuple[Tensor, Tensor], before: Sums, after: Sums
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives the gradients of φ(q), φ(k) and v."""
    heads, kv_heads, sizes, mask = call.q.shape[1], call.k.shape[1], call.sizes, mask_of(call)
    grad_q, grad_k, grad_v = _empty(call)
    q, k, v = ((x, strides_of(x)) for x in (call.q, call.k, call.v))
    shared = (grad, mask, *rows, call.table.blocks)
    strides = (*strides_of(grad), mask.stride(0))
    counts = (call.q.shape[2], heads // kv_heads)
    options: dict[str, Any] = {
        "HAS_MASK": call.mask is not None, "CAUSAL": call.causal, **call.wide_constants(),
        "num_warps": sizes.backward_warps,
    }  # fmt: skip
    chunks, parts = call.table.blocks.shape[0] * (sizes.block // sizes.chunk), triton.cdiv(call.features, WIDE_TILE)
    values = padded(call.values)
    launch(
        wide_query_gradients, (chunks, heads, parts), k[0], v[0], *shared, before.matrix, before.vector, grad_q, *k[1],
        *v[1], *strides, *counts, BV=values, **options,
    )  # fmt: skip
    launch(
        wide_key_gradients, (chunks, kv_heads, parts), q[0], v[0], *shared, after.matrix, after.vector, grad_k, *q[1],
        *v[1], *strides, *counts, BV=values, **options,
    )  # fmt: skip
    launch(
        wide_value_gradients, (chunks, kv_heads, triton.cdiv(call.values, sizes.values)), q[0], k[0], *shared,
        after.matrix, grad_v, *q[1], *k[1], *strides, *strides_of(grad_v), *counts, BV=sizes.values, **options,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def _empty(call: FusedCall) -> tuple[Tensor, Tensor, Tensor]:
    """Gives room for the gradients of queries' and keys' y and of values, the last with tokens before heads."""
    batch, heads, tokens, _ = call.v.shape
    grad_q, grad_k = (x.new_empty(*x.shape[:3], call.width) for x in (call.q, call.k))
    return grad_q, grad_k, call.v.new_empty(batch, tokens, heads, call.values).transpose(1, 2)


def _through_map(
    call: FusedCall, x: Tensor, grad_y: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gives the gradients of x, W and b from that of y = Wx + b."""
    if weight is None:
        return grad_y, None, None
    batch, heads, tokens, dim = x.shape
    parts, sizes = triton.cdiv(tokens, MAP_SPAN), call.sizes
    entries = _entries_at_once(batch, heads, tokens)
    programs = triton.cdiv(batch, entries) * parts
    grad_x = x.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    matrices = torch.empty(programs, heads, dim, call.width, dtype=torch.float32, device=x.device)
    vectors = torch.empty(programs, heads, call.width, dtype=torch.float32, device=x.device)
    launch(
        map_gradients, (programs, heads),
        x, grad_y, weight, grad_x, matrices, vectors, *strides_of(x), *strides_of(grad_x), batch, tokens, parts,
        MAP_SPAN, entries, DIM=dim, WIDTH=call.width, HAS_BIAS=bias is not None, CHUNK=sizes.chunk, BD=padded(dim),
        BW=padded(call.width), **operands(x.dtype), num_warps=sizes.backward_warps, num_stages=sizes.stages,
    )  # fmt: skip
    return grad_x, matrices.sum(0).to(weight.dtype), None if bias is None else vectors.sum(0).to(bias.dtype)


def _entries_at_once(batch: int, heads: int, tokens: int) -> int:
    """Gives how many short sequences one program takes, so that sums of dW are no larger than what they are sums of,
    while enough programs are left to fill the device."""
    return max(1, min(MAP_SPAN // tokens, batch * heads // PROGRAMS))


def _initial_gradient(call: FusedCall, queries: Sums, keys: Sums) -> LinearState | None:
    if call.initial is None:
        return None
    matrix, vector = queries.matrix, queries.vector
    if call.log_space and not call.causal:
        assert call.initial.log_scale is not None
        kept = (call.initial.log_scale - keys.through).exp()
        matrix, vector = matrix * kept[..., None], vector * kept
    return LinearState(matrix, vector)
