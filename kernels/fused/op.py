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

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Decoded = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("hedgebench::linear_attention", mutates_args=(), device_types="cuda")
@flat
def fused_forward(call: Call) -> Results:
    """The output, the norms of its rows, the state after the last key, and the sums of segments, like a state.

    A log_scale is empty outside log space. On a CPU the sums of segments are zeros, which nothing reads.
    """
    from .launch import forward

    ran = forward(call.readable())
    return ran.output, ran.norms, *operator.state_tensors(ran.final), *operator.state_tensors(ran.segments)


@torch.library.custom_op("hedgebench::linear_attention_backward", mutates_args=(), device_types="cuda")
@flat
def fused_backward(
    grad: Tensor, grad_kv: Tensor | None, grad_k: Tensor | None, output: Tensor, norms: Tensor, scale: Tensor,
    sums: Tensor, key_sums: Tensor, peaks: Tensor, call: Call
) -> list[Tensor]:  # fmt: skip
    """The gradients of the tensors in `Call.differentiable`; of a state that nothing reads there is no gradient."""
    from .gradients import backward
    from .launch import Forward

    last = None
    if grad_kv is not None or grad_k is not None:
        keys = (call.sequences, call.k.shape[1], call.features)
        kv, k = (
            output.new_zeros(shape, dtype=torch.float32) if given is None else given.float().contiguous()
            for given, shape in ((grad_kv, (*keys, call.values)), (grad_k, keys))
        )
        last = LinearState(kv, k, scale.contiguous() if call.log_space else None)
    segments = LinearState(sums, key_sums, peaks if call.log_space else None)
    ran = Forward(operator.rows_contiguous(output), norms.contiguous(), last or segments, segments)
    found = backward(call.readable(), ran, operator.rows_contiguous(grad), last)
    return operator.laid_out(call, found, grad, grad_kv, grad_k, output, norms, scale, sums, key_sums, peaks)


@fused_forward.register_kernel("cpu")
@flat
def _forward_on_cpu(call: Call) -> Results:
    with torch.no_grad():
        output, state = torch_attention(call)
    norms = call.q.new_zeros(call.q.shape[:3], dtype=torch.float32)
    return operator.placed(output), norms, *operator.own_state(state, call.sums_dtype), *_no_segments(call)


@fused_backward.register_kernel("cpu")
@flat
def _backward_on_cpu(
    grad: Tensor, grad_kv: Tensor | None, grad_k: Tensor | None, *rows: Tensor, call: Call
) -> list[Tensor]:
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
    return output, norms, *operator.state_shapes(keys, call.values, call.log_space), *_no_segments(call)


def _no_segments(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of segments, all zero."""
    keys = call.q.new_empty(call.kept_slots, call.k.shape[1], call.features, dtype=torch.float32)
    kv, keys, peaks = (x.zero_() for x in operator.state_shapes(keys, call.values, call.log_space))
    return kv, keys, peaks


operator.differentiate(fused_forward, fused_backward, Call, kept=(0, 1, 4, 5, 6, 7), outputs=(0, 2, 3))


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
    return decode(call.readable(), in_place=True).output


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
    for old, new in ((call.initial_kv, state.kv), (call.initial_k, state.k), (call.initial_scale, state.log_scale)):
        if old is not None and new is not None:
            old.copy_(new)
    return operator.placed(output)


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
