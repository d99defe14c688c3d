"""Linear attention chunk by chunk in cache, with gradients: what the form "chunk" is on a CPU outside torch.compile."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..maps.feature_map import without_autocast
from .chunk_backward import differentiate_by_chunk
from .chunk_forward import Trace, attend_by_chunk
from .chunk_steps import attend_by_steps
from .chunked_call import ChunkedCall
from .sums import Carry, state_from_carry


def attend_in_cache(
    call: ChunkedCall, carry: Carry, *, differentiated: bool
) -> tuple[Float[Tensor, "b h n dv"], Carry]:
    """Gives the output, in the type of the sums, and the sums after the last key.

    Chunks are gone through by hand-written steps in memory that is used again. Gradients make features and weights once
    more from q, k and the sums before each chunk; gradients of gradients are those of the steps that autograd follows.

    Args:
        call: what was given.
        carry: sums over the keys before these.
        differentiated: gradients will be asked for; both maps then have their own.
    """
    with without_autocast(call.q.device.type):
        if not differentiated:
            output, last, _ = attend_by_chunk(call, carry)
            return output, last
        parameters = (*call.maps[0].parameters, *call.maps[1].parameters)
        inputs = (call.q, call.k, call.v, carry.sums, *parameters)
        output, sums, log_scale = _InCache.apply(call, carry.log_scale, *inputs)  # type: ignore[no-untyped-call]
    return output, Carry(sums, log_scale)


class _InCache(torch.autograd.Function):
    """The way forward and back as autograd calls them; inputs are q, k, v, earlier sums and the maps' parameters."""

    @staticmethod
    def forward(ctx: Any, call: ChunkedCall, log_scale: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives the output, and sums and maxima after the last key."""
        trace = Trace.of(call, inputs[3])
        output, last, ctx.spilled = attend_by_chunk(call, Carry(inputs[3], log_scale), trace)
        ctx.mark_non_differentiable(last.log_scale)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(log_scale, output, *trace, *inputs)
        ctx.mask, ctx.maps, ctx.options = call.mask, call.maps, call.options
        return output, last.sums, last.log_scale

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor | None, grad_sums: Tensor | None, _: Tensor | None
    ) -> tuple[Any, ...]:
        """Gives the gradients of the inputs."""
        log_scale, output, *saved = ctx.saved_tensors
        trace, inputs = Trace._make(saved[: len(Trace._fields)]), saved[len(Trace._fields) :]
        call = ChunkedCall(inputs[0], inputs[1], inputs[2], ctx.mask, ctx.maps, ctx.options)
        grad = torch.zeros_like(output) if grad is None else grad
        grad_sums = torch.zeros_like(inputs[3]) if grad_sums is None else grad_sums
        with without_autocast(call.q.device.type):
            if torch.is_grad_enabled():
                return None, None, *_differentiable(call, inputs, log_scale, (grad, grad_sums))
            return None, None, *differentiate_by_chunk(call, log_scale, trace, ctx.spilled, output, grad, grad_sums)


def _differentiable(
    call: ChunkedCall, inputs: Sequence[Tensor], log_scale: Tensor, grads: tuple[Tensor, Tensor]
) -> tuple[Tensor | None, ...]:
    """Gives gradients that have gradients, of a forward pass made once more by steps that autograd follows."""
    state = state_from_carry(Carry(inputs[3], log_scale), call.options.log_space)
    output, last = attend_by_steps(call.q, call.k, call.v, call.mask, state, call.maps, call.options)
    outputs = (output, torch.cat([last.kv, last.k[..., None]], dim=-1))
    cotangents = [grad.to(x.dtype) for grad, x in zip(grads, outputs, strict=True)]
    wanted = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=True, allow_unused=True))
    return tuple(next(found) if x.requires_grad else None for x in inputs)
