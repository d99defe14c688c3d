"""What one call of the hybrid operator is given, and the torch forms behind it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..chunk.attention import linear_attention_and_log
from ..softmax.window import WindowAttention, WindowWeights, window_attention
from ..state import EMPTY_LOG, LinearState

HYBRID_DIFFERENTIABLE = 6
"""Leading entries of `HybridTensors` that get gradients."""


class HybridTensors(NamedTuple):
    """Tensors of a call without an earlier state, of more tokens n than the window w holds.

    Attributes:
        q: [b h n d].
        k: [b hk n d].
        v: [b hk n dv].
        far_q: [b h n-w f], features of the queries from token w on, or their logarithms.
        far_k: [b hk n-w f], of the first n-w keys.
        gate_log: [h], log γ.
        mask: [b n], true where a key is a real token.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    far_q: Tensor
    far_k: Tensor
    gate_log: Tensor
    mask: Tensor | None


class HybridOptions(NamedTuple):
    """What is not a tensor; as of `hybrid.hybrid_attention`."""

    window: int
    scale: float
    log_space: bool
    shift_window: bool


def torch_hybrid(given: HybridTensors, options: HybridOptions) -> tuple[Tensor, LinearState]:
    """Gives outputs, and the sums over the keys that have left the window."""
    tokens = given.far_q.shape[2]
    near = window_attention(
        given.q, given.k, given.v, window=options.window, key_padding_mask=given.mask, scale=options.scale
    )
    far, log_sum, state = linear_attention_and_log(
        given.far_q, given.far_k, given.v[:, :, :tokens], causal=True,
        key_padding_mask=None if given.mask is None else given.mask[:, :tokens], log_space=options.log_space,
    )  # fmt: skip
    early = given.q.shape[2] - tokens
    far, log_sum = F.pad(far, (0, 0, early, 0)), F.pad(log_sum, (early, 0), value=EMPTY_LOG)
    share = window_share(near, log_sum, given.gate_log, options.shift_window)
    return mixed(near.output, far, share).to(given.v.dtype), state


def window_share(
    near: WindowAttention | WindowWeights, far_log_sum: Tensor, gate_log: Tensor, shift_window: bool
) -> Tensor:
    """Gives the window's part [b h n] of the shared normaliser."""
    near_log_sum = near.log_sum - near.maximum if shift_window else near.log_sum
    return (gate_log[:, None] + near_log_sum - far_log_sum).sigmoid()


def mixed(near: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """Gives [b h n x] of both parts, where `share` of the normaliser is the near one's."""
    return far + share[..., None] * (near - far)


def torch_hybrid_gradients(given: HybridTensors, options: HybridOptions, grad: Tensor) -> list[Tensor]:
    """Gives the gradient of every differentiable tensor, of a forward pass made once more."""
    leaves = [x.detach().requires_grad_() for x in given[:HYBRID_DIFFERENTIABLE] if x is not None]
    output, _ = torch_hybrid(HybridTensors._make((*leaves, given.mask)), options)
    return list(torch.autograd.grad(output, leaves, grad.to(output.dtype), materialize_grads=True))
