"""What one call of linear attention with its map inside is given: tensors, and options."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..state import LinearState, accumulator_dtype

DIFFERENTIABLE = 9
"""Leading entries of `Tensors` that get gradients."""

PROGRAMS = 132
"""Programs that fill an H100 or H200: one for each multiprocessor."""


class Options(NamedTuple):
    """What is not a tensor.

    Attributes:
        feature_map: "identity" (q and k are features, or their logarithms with `log_space`) or a variant of
            `HedgehogMap`.
        negate: the map has both halves.
        log_space: features are exp of what the map gives.
        causal: a query sees the keys up to its own.
        normalize: divide by the row sum.
        eps: added to the row sum, outside log space.
        form: "fused_chunk" or "chunk"; on CPU not read.
    """

    feature_map: str
    negate: bool
    log_space: bool
    causal: bool
    normalize: bool
    eps: float
    form: str


class Tensors(NamedTuple):
    """What a call is given; shapes as of `hedgehog.chunk_hedgehog_attn`, the initial state taken apart."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor | None
    k_weight: Tensor | None
    q_bias: Tensor | None
    k_bias: Tensor | None
    initial_kv: Tensor | None
    initial_k: Tensor | None
    initial_scale: Tensor | None
    mask: Tensor | None
    cu_seqlens: Tensor | None

    @classmethod
    def of(
        cls,
        qkv: tuple[Tensor, Tensor, Tensor],
        state: LinearState | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        maps: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None] = (None, None, None, None),
        *,
        log_features: bool = False,
    ) -> "Tensors":
        """Joins q, k and v, cast to one type (autocast's where it is on, else the widest of theirs), and the rest.

        With `log_features` q and k are logarithms of features, and all are float32 at least: eight bits of a logarithm
        of 10 would be a feature wrong by four percent.
        """
        device = qkv[0].device.type
        if log_features:
            dtype = accumulator_dtype(*qkv)
        elif torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        else:
            dtype = torch.promote_types(torch.promote_types(qkv[0].dtype, qkv[1].dtype), qkv[2].dtype)
        q, k, v = (x.to(dtype) for x in qkv)
        parts = (None, None, None) if state is None else (state.kv, state.k, state.log_scale)
        return cls._make((q, k, v, *maps, *parts, mask, cu_seqlens))

    @property
    def sums_dtype(self) -> torch.dtype:
        """The type that sums are held in, and that the state after these tokens has."""
        earlier = [x for x in (self.initial_kv, self.initial_k) if x is not None]
        return accumulator_dtype(self.q, self.k, self.v, *earlier)

    @property
    def initial(self) -> LinearState | None:
        """The state after the tokens before these."""
        if self.initial_kv is None or self.initial_k is None:
            return None
        return LinearState(self.initial_kv, self.initial_k, self.initial_scale)
