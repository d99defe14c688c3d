"""Between the fused operators and the kernels: the call, and how what is returned lies in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..state import LinearState
from .tensors import Options, Tensors

if TYPE_CHECKING:
    from .call import FusedCall


def fused_call(tensors: Tensors, options: Options) -> "FusedCall":
    """Gives the call that the Triton kernels take."""
    from .call import FusedCall

    q, k, v = (rows_contiguous(x) for x in (tensors.q, tensors.k, tensors.v))
    maps = [None if x is None else x.contiguous() for x in tensors[3:7]]
    mask = None if tensors.mask is None else tensors.mask.contiguous()
    return FusedCall(
        q=q, k=k, v=v, q_weight=maps[0], k_weight=maps[1], q_bias=maps[2], k_bias=maps[3],
        feature_map=options.feature_map, negate=options.negate, causal=options.causal, normalize=options.normalize,
        eps=options.eps, mask=mask, cu_seqlens=tensors.cu_seqlens, initial=tensors.initial,
        log_space=options.log_space,
    )  # fmt: skip


def laid_out(
    tensors: Sequence[Tensor | None], gradients: Sequence[Tensor | None], inputs: Sequence[Any]
) -> list[Tensor]:
    """Gives the gradients there are as an operator may return them, and as its fake kernel promises them.

    Types and strides are those of `torch.empty_like` of their tensors, and each lies in memory of its own.

    Args:
        tensors: what the gradients are of; None where nothing was given.
        gradients: for the first of them, None where there is none.
        inputs: all that the operator was given.
    """
    taken = {_memory(x) for x in inputs if isinstance(x, Tensor)}
    found: list[Tensor] = []
    for tensor, gradient in zip(tensors, gradients, strict=False):
        if tensor is None or gradient is None:
            continue
        like = torch.empty_like(tensor)
        as_promised = gradient.stride() == like.stride() and gradient.dtype == like.dtype
        found.append(gradient if as_promised and _memory(gradient) not in taken else like.copy_(gradient))
        taken.add(_memory(found[-1]))
    return found


def own_state(state: LinearState, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Gives copies of a state's tensors in `dtype`, contiguous; an empty one for a scale that is not there."""
    kv, keys = (_copied(x, dtype) for x in (state.kv, state.k))
    return kv, keys, keys.new_empty(0) if state.log_scale is None else _copied(state.log_scale, dtype)


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _memory(tensor: Tensor) -> int:
    """Gives what tells one piece of memory from another, views of it included, as torch's own check does."""
    return int(tensor.untyped_storage()._cdata)


def placed(output: Tensor) -> Tensor:
    """Gives a copy of [b h n dv] with tokens before heads in memory, as the kernels write it."""
    batch, heads, tokens, values = output.shape
    return output.new_empty(batch, tokens, heads, values).transpose(1, 2).copy_(output)


def rows_contiguous(tensor: Tensor) -> Tensor:
    """Gives a tensor whose last dimension is contiguous, as the kernels read it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
