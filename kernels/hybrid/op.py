"""The sliding-window hybrid as operators of torch.library: Triton kernels on CUDA, plain torch on a CPU."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..triton import operator
from ..triton.backend import MAX_WIDTH, NARROW, obstacles
from ..triton.operator import flat
from .call import HybridCall, torch_hybrid

MAX_BATCH = 65_535
"""Largest batch of one launch, as the batch is the last axis of the kernels' grids."""

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def why_not_hybrid(q: Tensor, v: Tensor, features: int, *, log_space: bool) -> str:
    """The reasons why the kernels cannot run a call, or ""."""
    return "; ".join(_obstacles(q, v.shape[-1], features, log_space))


def _obstacles(q: Tensor, values: int, features: int, log_space: bool) -> Iterator[str]:
    yield from obstacles(q)
    if max(q.shape[-1], values, features if log_space else 0) > MAX_WIDTH:
        yield f"head or value dimensions or log features above {MAX_WIDTH}"
    if q.shape[0] > MAX_BATCH:
        yield f"a batch of more than {MAX_BATCH}"
    if values > NARROW and (log_space or q.dtype != torch.bfloat16):
        yield f"values above {NARROW} beside float32 features"


@torch.library.custom_op("hedgebench::hybrid_attention", mutates_args=(), device_types="cuda")
@flat
def fused_hybrid(call: HybridCall) -> Results:
    """The output, three numbers per row for the gradients (see `HybridRows`), and the state of the linear part.

    The log_scale of the state is empty outside log space.
    """
    from .launch import hybrid_forward

    rows, final = hybrid_forward(call)
    return rows.output, rows.norms, rows.shifts, rows.peaks, *operator.state_tensors(final)


@torch.library.custom_op("hedgebench::hybrid_attention_backward", mutates_args=(), device_types="cuda")
@flat
def fused_hybrid_backward(
    grad: Tensor, output: Tensor, norms: Tensor, shifts: Tensor, peaks: Tensor, call: HybridCall
) -> list[Tensor]:
    """The gradients of the tensors in `HybridCall.differentiable`."""
    from .launch import HybridRows, hybrid_backward

    found = hybrid_backward(call, HybridRows(output, norms, shifts, peaks).readable(), grad)
    return operator.laid_out(call, found, grad, output, norms, shifts, peaks)


@fused_hybrid.register_kernel("cpu")
@flat
def _forward_on_cpu(call: HybridCall) -> Results:
    output, state = torch_hybrid(call)
    rows = call.q.new_zeros(call.q.shape[:3], dtype=torch.float32)
    return operator.placed(output), rows, rows.clone(), rows.int(), *operator.own_state(state, call.sums_dtype)


@fused_hybrid_backward.register_kernel("cpu")
@flat
def _backward_on_cpu(grad: Tensor, *rows: Tensor, call: HybridCall) -> list[Tensor]:
    found = operator.gradients_by_torch(lambda call: torch_hybrid(call)[:1], call, (grad,))
    return operator.laid_out(call, found, grad, *rows)


@fused_hybrid.register_fake
@flat
def _forward_shapes(call: HybridCall) -> Results:
    batch, heads, tokens, _ = call.q.shape
    values, features = call.v.shape[-1], call.far_k.shape[-1]
    output = operator.empty_by_token(call.v, batch, heads, tokens, values)
    rows = call.q.new_empty(batch, heads, tokens, dtype=torch.float32)
    keys = call.q.new_empty(batch, call.k.shape[1], features, dtype=call.sums_dtype)
    peaks = torch.empty_like(rows, dtype=torch.int32)
    return output, rows, torch.empty_like(rows), peaks, *operator.state_shapes(keys, values, call.log_space)


operator.differentiate(fused_hybrid, fused_hybrid_backward, HybridCall, kept=range(4), outputs=(0,))
