"""Linear attention chunk by chunk in reused buffers, with gradients: the form "chunk" on a CPU, not compiled."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..linear.memory import Memory
from ..linear.sums import Carry
from ..maps.feature_map import without_autocast
from .backward import Trace, differentiate_by_chunk
from .call import ChunkedCall
from .steps import Chunks, attend_by_steps


def attend_in_cache(
    call: ChunkedCall, carry: Carry, *, differentiated: bool
) -> tuple[Float[Tensor, "b h n dv"], Carry]:
    """The output, in the type of the sums, and the sums after the last key.

    The backward pass computes features and weights again from q, k and the sums before each chunk. Gradients of
    gradients come from `attend_by_steps`, which autograd follows.

    Args:
        call: the call; its maps are not None.
        carry: sums over the keys before these.
        differentiated: gradients will be computed; both maps must be reversible.
    """
    with without_autocast(call.q.device.type):
        if not differentiated:
            trace = _attend(call, carry, keep=False)
            return trace.output, trace.carries[-1]
        parameters = [x for of in call.maps or () for x in of.parameters]
        inputs = (call.q, call.k, call.v, carry.sums, *parameters)
        output, sums, log_scale = _InCache.apply(call, carry.log_scale, *inputs)  # type: ignore[no-untyped-call]
    return output, Carry(sums, log_scale)


def _attend(call: ChunkedCall, carry: Carry, *, keep: bool) -> Trace:
    """Runs the forward pass; with `keep`, the trace holds the factors and the sums before each chunk."""
    batch, heads, tokens, _ = call.q.shape
    output = carry.sums.new_empty(batch * heads, tokens, call.v.shape[3])
    factors = carry.sums.new_empty(batch * heads, tokens if keep else 0, 1)
    chunks, carries = Chunks(call, carry, Memory(carry.sums, lasting=("sums",) if keep else ())), []
    division = call.division
    for at, rows, before in chunks:
        division.output(rows, output[:, at], factors[:, at] if keep else None)
        if keep:
            carries.append(before)
    return Trace(output.view(*call.q.shape[:3], call.v.shape[3]), factors, [*carries, chunks.carry])


class _InCache(torch.autograd.Function):
    """The forward and backward pass for autograd; inputs are q, k, v, earlier sums and the maps' parameters."""

    @staticmethod
    def forward(ctx: Any, call: ChunkedCall, log_scale: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and sums and maxima after the last key."""
        trace = _attend(call, Carry(inputs[3], log_scale), keep=True)
        ctx.options = {name: value for name, value in vars(call).items() if name not in ("q", "k", "v")}
        ctx.inputs = len(inputs)
        ctx.save_for_backward(
            *inputs, log_scale, trace.output, trace.factors, *chain.from_iterable(carry[:2] for carry in trace.carries)
        )
        ctx.complete = [carry.complete for carry in trace.carries]
        last = trace.carries[-1]
        ctx.mark_non_differentiable(last.log_scale)
        ctx.set_materialize_grads(False)
        return trace.output, last.sums, last.log_scale

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor | None, grad_sums: Tensor | None, _: Tensor | None
    ) -> tuple[Any, ...]:
        """The gradients of the inputs."""
        inputs = ctx.saved_tensors[: ctx.inputs]
        log_scale, output, factors, *carried = ctx.saved_tensors[ctx.inputs :]
        call, first = ChunkedCall(*inputs[:3], **ctx.options), Carry(inputs[3], log_scale)
        grad = torch.zeros_like(output) if grad is None else grad
        grad_sums = torch.zeros_like(first.sums) if grad_sums is None else grad_sums
        with without_autocast(call.q.device.type):
            if torch.is_grad_enabled():
                return None, None, *_differentiable(call, inputs, first, (grad, grad_sums))
            trace = Trace(output, factors, list(map(Carry, carried[::2], carried[1::2], ctx.complete)))
            return None, None, *differentiate_by_chunk(call, first, trace, grad, grad_sums)


def _differentiable(
    call: ChunkedCall, inputs: Sequence[Tensor], first: Carry, grads: tuple[Tensor, Tensor]
) -> Iterator[Tensor | None]:
    """Gradients that can be differentiated again: the forward pass is repeated by steps that autograd follows."""
    outputs, last = attend_by_steps(call, first, call.division.output)
    results = (torch.cat(outputs, dim=1).view(grads[0].shape), last.sums)
    wanted = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, grads, create_graph=True, allow_unused=True))
    return (next(found) if x.requires_grad else None for x in inputs)
