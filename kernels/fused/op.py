"""Linear attention with Hedgehog's map inside, as operators of torch.library, which torch compiles and differentiates.

On CUDA the operators run the Triton kernels, on a CPU the torch forms; the fake kernels give shapes to torch.compile.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    return _forward(call)


@torch.library.custom_op("hedgebench::linear_attention_backward", mutates_args=(), device_types="cuda")
@flat
def fused_backward(
    grad: Tensor, grad_kv: Tensor | None, grad_k: Tensor | None, output: Tensor, norms: Tensor, scale: Tensor,
    sums: Tensor, key_sums: Tensor, peaks: Tensor, call: Call
) -> list[Tensor]:  # fmt: skip
    """The gradients of the tensors in `Call.differentiable`; of a state that nothing reads there is no gradient."""
    rows = (output, norms, scale, sums, key_sums, peaks)
    return operator.laid_out(call, _gradients(call, grad, grad_kv, grad_k, *rows), grad, grad_kv, grad_k, *rows)


def _gradients(
    call: Call, grad: Tensor, grad_kv: Tensor | None, grad_k: Tensor | None, *rows: Tensor
) -> dict[str, Tensor]:
    from .gradients import backward
    from .launch import Forward

    output, norms, scale, sums, key_sums, peaks = rows
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
    return backward(call.readable(), ran, operator.rows_contiguous(grad), last)


class _Attention(torch.autograd.Function):
    """`fused_forward` with its gradients, of plain tensors that no one but autograd looks at."""

    @staticmethod
    def forward(ctx: Any, call: Call, *_: Tensor) -> Decoded:
        output, norms, kv, keys, *rest = _forward(call)
        values = call.flatten()
        ctx.save_for_backward(output, norms, *rest, *(x for x in values if isinstance(x, Tensor)))
        ctx.set_materialize_grads(False)
        ctx.others = [None if isinstance(x, Tensor) else (x,) for x in values]
        ctx.mark_non_differentiable(rest[0])
        return output, kv, keys, rest[0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        rows = [next(saved) for _ in _KEPT]
        call = Call(*(next(saved) if other is None else other[0] for other in ctx.others))
        output = torch.zeros_like(rows[0]) if grads[0] is None else grads[0]
        found = _gradients(call, output, grads[1], grads[2], *rows)
        return None, *(found[name] for name in call.differentiable())


_KEPT = (0, 1, 4, 5, 6, 7)
"""The results that the backward pass needs."""


def attend(call: Call) -> Decoded:
    """The output and the state that `fused_forward` gives, past torch's dispatcher if no one listens to it."""
    leaves = call.differentiable().values()
    if operator.listened_to(leaves):
        results = cast(Results, fused_forward(*call.flatten()))
    elif torch.is_grad_enabled() and any(x.requires_grad for x in leaves):
        apply: Any = _Attention.apply
        return cast(Decoded, apply(call, *leaves))
    else:
        results = _forward(call)
    return results[0], *results[2:5]


def _forward(call: Call) -> Results:
    from .launch import forward

    ran = forward(call.readable())
    return ran.output, ran.norms, *operator.state_tensors(ran.final), *operator.state_tensors(ran.segments)


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


operator.differentiate(fused_forward, fused_backward, Call, kept=_KEPT, outputs=(0, 2, 3))


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
    return _decode_in_place(call)


def decode_in_place(call: Call) -> Tensor:
    """The result of `fused_decode_`, past torch's dispatcher if no one listens to it."""
    if operator.listened_to(call.differentiable().values()):
        return cast(Tensor, fused_decode_(*call.flatten()))
    output = _decode_in_place(call)
    state = (call.initial_kv, call.initial_k, call.initial_scale)
    torch.autograd.graph.increment_version([x for x in state if x is not None])
    return output


def _decode_in_place(call: Call) -> Tensor:
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
