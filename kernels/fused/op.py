"""Linear attention with Hedgehog's map inside, as operators that torch knows: compiled, differentiated, cast by it.

On CUDA they run the Triton kernels, on CPU the torch forms; the fake kernels give shapes to torch.compile.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..state import LinearState
from .operands import fused_call, laid_out, own_state, placed, rows_contiguous
from .tensors import DIFFERENTIABLE, Options, Tensors
from .torch_forms import torch_attention


@torch.library.custom_op("hedgebench::linear_attention", mutates_args=(), device_types="cuda")
def fused_forward(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None,
    k_bias: Tensor | None, initial_kv: Tensor | None, initial_k: Tensor | None, initial_scale: Tensor | None,
    mask: Tensor | None, cu_seqlens: Tensor | None, feature_map: str, negate: bool, log_space: bool, causal: bool,
    normalize: bool, eps: float, form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gives the output, rows' norms, and the state after the last key, its scale empty outside log space."""
    from .launch import forward

    tensors = Tensors(q, k, v, q_weight, k_weight, q_bias, k_bias, initial_kv, initial_k, initial_scale, mask,
                      cu_seqlens)  # fmt: skip
    options = Options(feature_map, negate, log_space, causal, normalize, eps, form)
    ran = forward(fused_call(tensors, options), form)
    scale = ran.final.k.new_empty(0) if ran.final.log_scale is None else ran.final.log_scale
    return ran.output, ran.norms, ran.final.kv, ran.final.k, scale


@torch.library.custom_op("hedgebench::linear_attention_backward", mutates_args=(), device_types="cuda")
def fused_backward(
    grad: Tensor, grad_kv: Tensor, grad_k: Tensor, output: Tensor, norms: Tensor,
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None,
    k_bias: Tensor | None, initial_kv: Tensor | None, initial_k: Tensor | None, initial_scale: Tensor | None,
    mask: Tensor | None, cu_seqlens: Tensor | None, feature_map: str, negate: bool, log_space: bool, causal: bool,
    normalize: bool, eps: float, form: str,
) -> list[Tensor]:  # fmt: skip
    """Gives the gradient of every differentiable tensor that was given, in the order of `Tensors`."""
    from .gradients import backward

    tensors = Tensors(q, k, v, q_weight, k_weight, q_bias, k_bias, initial_kv, initial_k, initial_scale, mask,
                      cu_seqlens)  # fmt: skip
    options = Options(feature_map, negate, log_space, causal, normalize, eps, form)
    last = LinearState(grad_kv.float().contiguous(), grad_k.float().contiguous())
    output, norms, grad = rows_contiguous(output), norms.contiguous(), rows_contiguous(grad)
    found = backward(fused_call(tensors, options), output, norms, grad, last)
    initial = (None, None) if found.initial is None else (found.initial.kv, found.initial.k)
    gradients = (found.q, found.k, found.v, found.q_weight, found.k_weight, found.q_bias, found.k_bias, *initial)
    return laid_out(tensors, gradients, (grad, grad_kv, grad_k, output, norms, *tensors))


@fused_forward.register_kernel("cpu")
def _forward_on_cpu(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors, options = Tensors._make(args[:12]), Options._make(args[12:])
    with torch.no_grad():
        output, state = torch_attention(tensors, options)
    norms = tensors.q.new_zeros(tensors.q.shape[:3], dtype=torch.float32)
    return placed(output), norms, *own_state(state, tensors.sums_dtype)


@fused_backward.register_kernel("cpu")
def _backward_on_cpu(*args: Any) -> list[Tensor]:
    grad, grad_kv, grad_k = args[:3]
    tensors, options = Tensors._make(args[5:17]), Options._make(args[17:])
    given = [index for index in range(DIFFERENTIABLE) if tensors[index] is not None]
    # Below an operator autograd records nothing on this thread, whatever the grad mode: another one starts afresh.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(_torch_gradients, tensors, options, given, (grad, grad_kv, grad_k)).result()
    return laid_out(tensors, [found.get(index) for index in range(DIFFERENTIABLE)], args)


def _torch_gradients(
    tensors: Tensors, options: Options, given: list[int], grads: tuple[Tensor, Tensor, Tensor]
) -> dict[int, Tensor]:
    """Gives gradients by the place of their tensor, of a forward pass made once more."""
    leaves = {index: x.detach().requires_grad_() for index, x in enumerate(tensors) if index in given and x is not None}
    output, state = torch_attention(Tensors._make(leaves.get(i, x) for i, x in enumerate(tensors)), options)
    outputs = (output, state.kv, state.k)
    cotangents = [grad.to(x.dtype) for grad, x in zip(grads, outputs, strict=True)]
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


@fused_forward.register_fake
def _forward_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors, options = Tensors._make(args[:12]), Options._make(args[12:])
    batch, heads, tokens, dim = tensors.q.shape
    values = tensors.v.shape[-1]
    width = dim if tensors.q_weight is None else tensors.q_weight.shape[-1]
    features = width * (2 if options.negate else 1)
    sequences = batch if tensors.cu_seqlens is None else tensors.cu_seqlens.shape[0] - 1
    vector = tensors.q.new_empty(sequences, tensors.k.shape[1], features, dtype=tensors.sums_dtype)
    return (
        tensors.v.new_empty(batch, tokens, heads, values).transpose(1, 2),
        tensors.q.new_empty(batch, heads, tokens, dtype=torch.float32),
        vector.new_empty(*vector.shape, values),
        vector,
        torch.empty_like(vector) if options.log_space else vector.new_empty(0),
    )


@fused_backward.register_fake
def _backward_shapes(*args: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in args[5 : 5 + DIFFERENTIABLE] if tensor is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[0], output[1], *inputs[:12])
    ctx.options = inputs[12:]
    ctx.mark_non_differentiable(output[1], output[4])


def _gradients(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    output, norms, *tensors = ctx.saved_tensors
    given = [index for index in range(DIFFERENTIABLE) if tensors[index] is not None]
    found = fused_backward(grads[0], grads[2], grads[3], output, norms, *tensors, *ctx.options)
    by_index = dict(zip(given, found, strict=True))
    return (*(by_index.get(index) for index in range(12)), *(None for _ in ctx.options))


fused_forward.register_autograd(_gradients, setup_context=_save)
