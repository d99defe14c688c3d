"""The sliding-window hybrid as operators that torch knows: Triton kernels on CUDA, the torch forms on CPU."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..fused.operands import laid_out, own_state, placed, rows_contiguous
from ..state import accumulator_dtype
from .tensors import HYBRID_DIFFERENTIABLE, HybridOptions, HybridTensors, torch_hybrid, torch_hybrid_gradients

MAX_WIDTH = 256
"""Dimensions of heads and of values, and log features, that the kernels take at most."""

NARROW = 128
"""Columns of values that Hopper's shared memory has room for where features are of four bytes."""

MAX_BATCH = 65_535
"""Sequences that one launch takes: programs along the last axis of a grid."""

_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not_hybrid(q: Tensor, v: Tensor, features: int, *, log_space: bool) -> str:
    """Gives why the kernels cannot run a call, or nothing where they can."""
    reasons = {
        f"tensors are on {q.device.type}, the kernels run on cuda": q.device.type != "cuda",
        "triton is not installed": find_spec("triton") is None,
        f"{q.dtype} is none of the types they take": q.dtype not in _TYPES,
        f"head or value dimensions or log features above {MAX_WIDTH}": max(
            q.shape[-1], v.shape[-1], features if log_space else 0
        )
        > MAX_WIDTH,
        f"a batch of more than {MAX_BATCH}": q.shape[0] > MAX_BATCH,
        f"values above {NARROW} beside float32 features": v.shape[-1] > NARROW
        and (log_space or q.dtype != torch.bfloat16),
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


@torch.library.custom_op("hedgebench::hybrid_attention", mutates_args=(), device_types="cuda")
def fused_hybrid(
    q: Tensor, k: Tensor, v: Tensor, far_q: Tensor, far_k: Tensor, gate_log: Tensor, mask: Tensor | None,
    window: int, scale: float, log_space: bool, shift_window: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gives the output, three numbers of each row for the gradients, and the linear part's state, its scale empty
    outside log space."""
    from .launch import hybrid_forward

    given = HybridTensors(q, k, v, far_q, far_k, gate_log, mask)
    rows, final = hybrid_forward(given, HybridOptions(window, scale, log_space, shift_window))
    log_scale = final.k.new_empty(0) if final.log_scale is None else final.log_scale
    return rows.output, rows.norms, rows.shifts, rows.peaks, final.kv, final.k, log_scale


@torch.library.custom_op("hedgebench::hybrid_attention_backward", mutates_args=(), device_types="cuda")
def fused_hybrid_backward(
    grad: Tensor, output: Tensor, norms: Tensor, shifts: Tensor, peaks: Tensor,
    q: Tensor, k: Tensor, v: Tensor, far_q: Tensor, far_k: Tensor, gate_log: Tensor, mask: Tensor | None,
    window: int, scale: float, log_space: bool, shift_window: bool,
) -> list[Tensor]:  # fmt: skip
    """Gives the gradients of the differentiable tensors, in the order of `HybridTensors`."""
    from .launch import HybridRows, hybrid_backward

    given = HybridTensors(q, k, v, far_q, far_k, gate_log, mask)
    rows = HybridRows(rows_contiguous(output), norms.contiguous(), shifts.contiguous(), peaks.contiguous())
    found = hybrid_backward(given, HybridOptions(window, scale, log_space, shift_window), rows, grad)
    return laid_out(given, found, (grad, output, norms, shifts, peaks, *given))


@fused_hybrid.register_kernel("cpu")
def _forward_on_cpu(*args: Any) -> tuple[Tensor, ...]:
    given, options = HybridTensors._make(args[:7]), HybridOptions._make(args[7:])
    output, state = torch_hybrid(given, options)
    rows = given.q.new_zeros(given.q.shape[:3], dtype=torch.float32)
    sums = own_state(state, accumulator_dtype(given.far_k, given.v))
    return placed(output), rows, rows.clone(), rows.int(), *sums


@fused_hybrid_backward.register_kernel("cpu")
def _backward_on_cpu(*args: Any) -> list[Tensor]:
    given, options = HybridTensors._make(args[5:12]), HybridOptions._make(args[12:])
    # Below an operator autograd records nothing on this thread, whatever the grad mode: another one starts afresh.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(torch_hybrid_gradients, given, options, args[0]).result()
    return laid_out(given, found, args)


@fused_hybrid.register_fake
def _forward_shapes(*args: Any) -> tuple[Tensor, ...]:
    given, options = HybridTensors._make(args[:7]), HybridOptions._make(args[7:])
    batch, heads, tokens, _ = given.q.shape
    values, features = given.v.shape[-1], given.far_k.shape[-1]
    rows = given.q.new_empty(batch, heads, tokens, dtype=torch.float32)
    keys = given.q.new_empty(batch, given.k.shape[1], features, dtype=accumulator_dtype(given.far_k, given.v))
    return (
        given.v.new_empty(batch, tokens, heads, values).transpose(1, 2),
        *(rows, torch.empty_like(rows), torch.empty_like(rows, dtype=torch.int32)),
        *(keys.new_empty(*keys.shape, values), keys),
        torch.empty_like(keys) if options.log_space else keys.new_empty(0),
    )


@fused_hybrid_backward.register_fake
def _backward_shapes(*args: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in args[5 : 5 + HYBRID_DIFFERENTIABLE]]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[:4], *inputs[:7])
    ctx.options = inputs[7:]
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    found = fused_hybrid_backward(grad, *ctx.saved_tensors, *ctx.options)
    return (*found, None, *(None for _ in ctx.options))


fused_hybrid.register_autograd(_gradients, setup_context=_save)
