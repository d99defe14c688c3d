"""The arguments of the hybrid operator as one value, and its form in plain torch."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..chunk.attention import linear_attention_and_log
from ..softmax.window import WindowRows, window_attention
from ..state import EMPTY_LOG, LinearState, accumulator_dtype
from ..triton.launch import by_head, mask_bytes
from ..triton.operator import Arguments, rows_contiguous
from ..triton.tiles import Constants, Tiles, operands, padded


@dataclass(frozen=True)
class HybridCall(Arguments):
    """A call of `hybrid_attention` without an earlier state, of more tokens n than the window w holds.

    Attributes:
        q: [b h n d].
        k: [b hk n d].
        v: [b hk n dv].
        far_q: [b h n-w f], features of the queries from token w on, or their logarithms.
        far_k: [b hk n-w f], features of the first n-w keys, or their logarithms.
        gate_log: [h], log γ.
        mask: [b n], true where a key is a real token.
        window: w; this and the other options are those of `hybrid_attention`.
        scale: factor on q·k.
        tiles: tile sizes of the kernels of both parts; if None, each part has its own.
    """

    DIFFERENTIABLE: ClassVar = ("q", "k", "v", "far_q", "far_k", "gate_log")

    q: Tensor
    k: Tensor
    v: Tensor
    far_q: Tensor
    far_k: Tensor
    gate_log: Tensor
    mask: Tensor | None
    window: int
    scale: float
    log_space: bool
    shift_window: bool
    tiles: Tiles | None = field(default=None, kw_only=True)

    @property
    def far_tokens(self) -> int:
        """The number of keys that leave the window."""
        return self.far_q.shape[2]

    @property
    def far_mask(self) -> Tensor | None:
        """The mask of the keys that leave the window."""
        return None if self.mask is None else self.mask[:, : self.far_tokens]

    @property
    def sums_dtype(self) -> torch.dtype:
        """The type of the linear part's sums."""
        return accumulator_dtype(self.far_k, self.v)

    @cached_property
    def rows(self) -> int:
        """Queries in a tile of the window's scores, and keys: the tile is square."""
        if self.tiles:
            return self.tiles.chunk
        widest = max(padded(self.q.shape[-1]), padded(self.v.shape[-1]))
        return 64 if self.q.dtype == torch.bfloat16 and widest <= 128 else 32

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Arguments that the window's kernels have in common, by the names of their parameters."""
        q, k, v = (rows_contiguous(x) for x in (self.q, self.k, self.v))
        dim, values = q.shape[-1], v.shape[-1]
        return {
            "q": by_head(q), "k": by_head(k), "v": by_head(v), "mask": mask_bytes(self.mask),
            "gate": self.gate_log.contiguous(), "tokens": q.shape[2], "scale": self.scale,
            "C": Constants(
                DIM=dim, VALUES=values, GROUPS=q.shape[1] // k.shape[1], HAS_MASK=self.mask is not None,
                WINDOW=self.window, SHIFT=self.shift_window, CHUNK=self.rows, BD=padded(dim), BW=padded(dim),
                BV=padded(values), **operands(q.dtype),
            ),
        }  # fmt: skip


def torch_hybrid(call: HybridCall) -> tuple[Tensor, LinearState]:
    """Outputs, and the sums over the keys that have left the window."""
    near = window_attention(call.q, call.k, call.v, window=call.window, key_padding_mask=call.mask, scale=call.scale)
    far, log_sum, state = linear_attention_and_log(
        call.far_q, call.far_k, call.v[:, :, : call.far_tokens], causal=True, key_padding_mask=call.far_mask,
        log_space=call.log_space,
    )  # fmt: skip
    far, log_sum = F.pad(far, (0, 0, call.window, 0)), F.pad(log_sum, (call.window, 0), value=EMPTY_LOG)
    share = window_share(near, log_sum, call.gate_log, call.shift_window)
    return mixed(near.rows, far, share).to(call.v.dtype), state


def window_share(near: WindowRows, far_log_sum: Tensor, gate_log: Tensor, shift_window: bool) -> Tensor:
    """The window's share of the normaliser [b h n], between 0 and 1; `far_log_sum` is the linear part's logarithm."""
    near_log_sum = near.log_sum - near.maximum if shift_window else near.log_sum
    return (gate_log[:, None] + near_log_sum - far_log_sum).sigmoid()


def mixed(near: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """The outputs or weights [b h n x] of both parts together; `share` is the near part's share of the normaliser."""
    return far + share[..., None] * (near - far)
