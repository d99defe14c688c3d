"""Launches the Triton kernels of the backward pass of linear attention with Hedgehog's map inside."""

from typing import Any

import torch
from torch import Tensor

from ..state import LinearState
from ..triton.launch import by_head, launch, sums_of
from ..triton.tiles import PROGRAMS
from .call import Call
from .key_kernels import key_walk
from .launch import Forward, empty_sums
from .query_kernels import query_walk, sum_queries


def backward(call: Call, ran: Forward, grad: Tensor, grad_final: LinearState | None = None) -> dict[str, Tensor]:
    """The gradients of a call's differentiable tensors, by name.

    Args:
        call: the call that `forward` ran, in the same form.
        ran: its results; of the final state only the log_scale is read.
        grad: gradient of the output, contiguous in its last dimension.
        grad_final: gradient of the state after the last key, contiguous; its log_scale is not read.
    """
    grad_q, grad_k = torch.empty_like(call.q), torch.empty_like(call.k)
    # Where columns take several tiles, the kernel adds to the gradient of v.
    grad_v = torch.zeros_like(call.v, dtype=torch.float32) if call.wide else torch.empty_like(call.v)
    slots = call.kept_slots
    queries = empty_sums(call, slots) if slots else ran.segments
    first = empty_sums(call, call.sequences, peaks=False) if call.initial else None
    pulls = torch.empty_like(ran.norms) if call.normalize else torch.zeros_like(ran.norms)
    shared: dict[str, Any] = call.shared | {
        "grad": by_head(grad), "norms": ran.norms, "pulls": pulls, "segments": sums_of(ran.segments),
        "query_sums": sums_of(queries),
    }  # fmt: skip
    options: dict[str, Any] = {"num_warps": call.sizes.backward_warps, "num_stages": call.sizes.stages}
    tiles, constants = call.tiled
    columns = tiles if call.wide else 1
    found = _in_walks(call, "q", grad_q, query_walk, columns, shared=shared, output=by_head(ran.output),
                      **options)  # fmt: skip
    if slots:
        launch(sum_queries, (slots, call.k.shape[1], tiles), shared=shared, C=constants, **options)
    last_kv, last_keys, _ = sums_of(grad_final)
    peaks = None if grad_final is None or ran.final.log_scale is None else -ran.final.log_scale
    found |= _in_walks(
        call, "k", grad_k, key_walk, shared=shared, last=(last_kv, last_keys, peaks), grad_v=by_head(grad_v),
        grad_initial=sums_of(first), **options | {"num_stages": 1},
    )  # fmt: skip
    found["v"] = grad_v
    return found | ({} if first is None else {"initial_kv": first.kv, "initial_k": first.k})


def _in_walks(call: Call, name: str, grad_x: Tensor, kernel: Any, columns: int = 1, **others: Any) -> dict[str, Tensor]:
    """Launches a kernel for the gradients of q or k, and of its W and b, of which each program adds up a share.

    Short sequences have many programs of few tokens: so many are launched at a time that their shares take no more
    memory than x does, or than those of a full device.
    """
    weight, bias = getattr(call, f"{name}_weight"), getattr(call, f"{name}_bias")
    heads, sides = grad_x.shape[1], call.dim * call.width
    at_once = slots = call.slots
    if weight is not None:
        held = grad_x.numel() * grad_x.element_size() // 4 // sides
        at_once = min(slots, max(1, max(2 * PROGRAMS, held) // heads))
    shares = tuple(
        None if like is None else grad_x.new_empty(at_once, *like.shape, dtype=torch.float32) for like in (weight, bias)
    )
    for before in range(0, slots, at_once):
        launch(
            kernel, (min(at_once, slots - before), heads, columns), slots_before=before, grad_x=by_head(grad_x),
            grad_map=shares, **others,
        )  # fmt: skip
    found = {name: grad_x}
    for suffix, like, parts in (("weight", weight, shares[0]), ("bias", bias, shares[1])):
        if like is not None and parts is not None:
            found[f"{name}_{suffix}"] = parts.sum(0).to(like.dtype)
    return found
