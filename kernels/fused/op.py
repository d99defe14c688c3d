"""Linear attention with Hedgehog's map inside, as operators of torch.library, which torch compiles and differentiates.

On CUDA the operators run the Triton kernels, on a CPU the torch forms; the fake kernels give shapes to torch.compile.
"""

import torch
from torch import Tensor

from ..state import LinearState
from ..triton import operator
from ..triton.operator import flat
from .call import Call
from .checks import check_changed_in_place
from .torch_forms import torch_attention, torch_decode

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Decoded = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("hedgebench::linear_attention", mutates_args=(), device_types="cuda")
@flat
def fused_forward(call: Call) -> Results:
    """The output, the norms of its rows, and the state after the last key; log_scale is empty outside log space."""
    from .launch import forward

    ran = forward(call.readable())
    return ran.output, ran.norms, *operator.state_tensors(ran.final)


@torch.library.custom_op("hedgebench::linear_attention_backward", mutates_args=(), device_types="cuda")
@flat
def fused_backward(
    grad: Tensor, grad_kv: Tensor, grad_k: Tensor, output: Tensor, norms: Tensor, call: Call
) -> list[Tensor]:
    """The gradients of the tensors in `Call.differentiable`."""
    from .gradients import backward

    last = LinearState(grad_kv.float().contiguous(), grad_k.float().contiguous())
    found = backward(
        call.readable(), operator.rows_contiguous(output), norms.contiguous(), operator.rows_contiguous(grad), last
    )
    return operator.laid_out(call, found, grad, grad_kv, grad_k, output, norms)


@fused_forward.register_kernel("cpu")
@flat
def _forward_on_cpu(call: Call) -> Results:
    with torch.no_grad():
        output, state = torch_attention(call)
    norms = call.q.new_zeros(call.q.shape[:3], dtype=torch.float32)
    return operator.placed(output), norms, *operator.own_state(state, call.sums_dtype)


@fused_backward.register_kernel("cpu")
@flat
def _backward_on_cpu(grad: Tensor, grad_kv: Tensor, grad_k: Tensor, *rows: Tensor, call: Call) -> list[Tensor]:
    def form(call: Call) -> tuple[Tensor, Tensor, Tensor]:
        attended, state = torch_attention(call)
        return attended, state.kv, state.k

    found = operator.gradients_by_torch(form, call, (grad, grad_kv, grad_k))
    return operator.laid_out(call, found, grad, grad_kv, grad_k, *rows)


@fused_forward.register_fake
@flat
def _forward_shapes(call: Call) -> Results:
    batch, heads, tokens, _ = call.q.shape
    output = operator.empty_by_token(call.v, batch, heads, tokens, call.values)
    norms = call.q.new_empty(batch, heads, tokens, dtype=torch.float32)
    keys = call.q.new_empty(call.sequences, call.k.shape[1], call.features, dtype=call.sums_dtype)
    return output, norms, *operator.state_shapes(keys, call.values, call.log_space)


operator.differentiate(fused_forward, fused_backward, Call, kept=2, outputs=(0, 2, 3))


@torch.library.custom_op("hedgebench::linear_attention_decode", mutates_args=(), device_types="cuda")
@flat
def fused_decode(call: Call) -> Decoded:
    """The outputs of a few tokens, and a new state after them; log_scale is empty outside log space."""
    from .launch import decode

    ran = decode(call.readable())
    return ran.output, *operator.state_tensors(ran.final)


@torch.library.custom_op(
    "hedgebench::linear_attention_decode_",
    mutates_args=("initial_kv", "initial_k", "initial_scale"),
    device_types="cuda",
)
@flat
def fused_decode_(call: Call) -> Tensor:
    """The outputs of a few tokens; changes the initial state in place.

    Raises:
        ValueError: no state, or one that is not contiguous or neither float32 nor float64.
    """
    from .launch import decode

    check_changed_in_place(call.initial)
    ran = decode(call.readable(), in_place=True)
    _overwrite(call, ran.final)
    return ran.output


@fused_decode.register_kernel("cpu")
@flat
def _decode_on_cpu(call: Call) -> Decoded:
    output, state = torch_decode(call)
    return operator.placed(output), *operator.own_state(state, call.sums_dtype)


@fused_decode_.register_kernel("cpu")
@flat
def decode_in_place_by_torch(call: Call) -> Tensor:
    """`fused_decode_` in plain torch, on any device; it raises the same errors."""
    check_changed_in_place(call.initial)
    output, state = torch_decode(call)
    _overwrite(call, state)
    return operator.placed(output)


def _overwrite(call: Call, state: LinearState) -> None:
    """Copies a state over the initial one, except for tensors that are the initial ones already."""
    pairs = ((call.initial_kv, state.kv), (call.initial_k, state.k), (call.initial_scale, state.log_scale))
    for old, new in pairs:
        if old is not None and new is not None and old is not new:
            old.copy_(new)


@fused_decode.register_fake
@flat
def _decode_shapes(call: Call) -> Decoded:
    keys = call.q.new_empty(call.q.shape[0], call.k.shape[1], call.features, dtype=call.sums_dtype)
    return _decode_in_place_shapes(*call.flatten()), *operator.state_shapes(keys, call.values, call.log_space)


@fused_decode_.register_fake
@flat
def _decode_in_place_shapes(call: Call) -> Tensor:
    batch, heads, tokens, _ = call.q.shape
    return operator.empty_by_token(call.v, batch, heads, tokens, call.values)
