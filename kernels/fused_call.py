"""Between the fused operators and the kernels: the call, and how what is returned lies in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .fused_tensors import Options, Tensors

if TYPE_CHECKING:
    from .triton_call import FusedCall


def fused_call(tensors: Tensors, options: Options) -> "FusedCall":
    """Gives the call that the Triton kernels take."""
    from .triton_call import FusedCall

    q, k, v = (rows_contiguous(x) for x in (tensors.q, tensors.k, tensors.v))
    maps = [None if x is None else x.contiguous() for x in tensors[3:7]]
    return FusedCall(
        q=q, k=k, v=v, q_weight=maps[0], k_weight=maps[1], q_bias=maps[2], k_bias=maps[3],
        feature_map=options.feature_map, negate=options.negate, causal=options.causal, normalize=options.normalize,
        eps=options.eps, mask=tensors.mask, cu_seqlens=tensors.cu_seqlens, initial=tensors.initial,
        log_space=options.log_space,
    )  # fmt: skip


def laid_out(tensors: Tensors, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Gives the gradients there are, each in the strides that the fake kernel promises: those of its tensor."""
    pairs = [(t, g) for t, g in zip(tensors, gradients, strict=False) if t is not None and g is not None]
    likes = [torch.empty_like(tensor) for tensor, _ in pairs]
    return [
        gradient if gradient.stride() == like.stride() and not _shares(gradient, tensors) else like.copy_(gradient)
        for like, (_, gradient) in zip(likes, pairs, strict=True)
    ]


def _shares(gradient: Tensor, tensors: Tensors) -> bool:
    """Tells whether a gradient lies where an input does, which an operator must not return."""
    return any(x is not None and x.data_ptr() == gradient.data_ptr() for x in tensors)


def placed(output: Tensor) -> Tensor:
    """Gives a copy of [b h n dv] with tokens before heads in memory, as the kernels write it."""
    batch, heads, tokens, values = output.shape
    return output.new_empty(batch, tokens, heads, values).transpose(1, 2).copy_(output)


def rows_contiguous(tensor: Tensor) -> Tensor:
    """Gives a tensor whose last dimension is contiguous, as the kernels read it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
