"""Parts of gated attention around its recurrence: convolved projections, decays, and the gated norm of the output."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..attention.core import Heads
from ..attention.position import Rotary, ShortConvolution
from ..base import UnsupportedError
from ..mechanisms.declaration import AttentionShape

KERNEL_SIZE = 4
"""Tokens that a short convolution sees, as published for all mechanisms that have one."""

Decays = Float[Tensor, "b hk n c"]
"""Logarithms of decays: of each key channel, or one for a head."""


def width_of(shape: AttentionShape, name: str) -> int:
    """Width of the layer's input.

    Raises:
        UnsupportedError: The layer does not pass its input on.
    """
    if shape.width is None:
        raise UnsupportedError(
            f"model {name} reads the input of its layer, which only backbones that are trained from scratch pass on; "
            "a pretrained model gives queries, keys and values alone"
        )
    return shape.width


def input_of(heads: Heads) -> Float[Tensor, "b n w"]:
    """The layer's input.

    Raises:
        UnsupportedError: There is none.
    """
    if heads.inputs is None:
        raise UnsupportedError("this attention reads the input of its layer, and the call has only q, k and v")
    return heads.inputs


def by_head(x: Float[Tensor, "b n w"], heads: int) -> Float[Tensor, "b {heads} n c"]:
    """Channels split among heads."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_length(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
    """Vectors scaled to length 1."""
    return x * x.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()


class Streams(nn.Module):
    """Queries, keys and values as the recurrence reads them.

    Args:
        shape: The layer.
        convolved: Whether a short convolution and SiLU come first; the convolution starts as the identity.
        rotated: Whether queries and keys get rotary positions.
        features: Map of queries and keys; None for none.
    """

    def __init__(
        self,
        shape: AttentionShape,
        *,
        convolved: bool = False,
        rotated: bool = False,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        channels = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.convolution = ShortConvolution(channels, KERNEL_SIZE) if convolved else None
        self.rotary = Rotary(shape.head_dim) if rotated else None
        self.features = features

    def forward(
        self, heads: Heads, tail: Float[Tensor, "b t c"] | None
    ) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "b t c"] | None]:
        """Queries, keys and values, and the last inputs of the convolution; `tail` holds the earlier ones."""
        q, k, v = heads.q, heads.k, heads.v
        if self.convolution is not None:
            counts = [x.shape[1] for x in (q, k, v)]
            joined = torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], -1)
            if heads.key_padding_mask is not None:
                joined = joined * heads.key_padding_mask[..., None]
            convolved, tail = self.convolution(joined, tail)
            q, k, v = torch.split(by_head(F.silu(convolved), sum(counts)), counts, 1)
        q, k, v = (x.contiguous() for x in (q, k, v))  # what follows is quicker then
        if self.rotary is not None:
            q, k = self.rotary(q, heads.positions), self.rotary(k, heads.positions)
        if self.features is not None:
            q, k = self.features(at_least_float32(q)), self.features(at_least_float32(k))
        return q, k, v, tail


class FixedDecay(nn.Module):
    """1 - 2^(-5 - i) for head i, as in RetNet (arXiv:2307.08621, section 3.1)."""

    log_decay: Tensor

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        decays = 1 - 2.0 ** (-5 - torch.arange(shape.kv_heads, dtype=torch.float64))
        self.register_buffer("log_decay", decays.log()[:, None, None].to(torch.get_default_dtype()), persistent=False)

    def forward(self, heads: Heads) -> Decays:
        """The same decays for all tokens."""
        return self.log_decay.expand(len(heads.k), -1, heads.k.shape[2], -1)


class ChannelDecay(nn.Module):
    """sigmoid(W₂W₁x + b)^(1/16) of each key channel (GLA, arXiv:2312.06635, section 4.4).

    Args:
        shape: The layer.
        width: Width of the layer's input.
    """

    def __init__(self, shape: AttentionShape, width: int, rank: int = 16) -> None:
        super().__init__()
        self.heads = shape.kv_heads
        self.project = low_rank(width, rank, self.heads * shape.head_dim)

    def forward(self, heads: Heads) -> Decays:
        """Decays that follow from the layer's input."""
        return by_head(F.logsigmoid(at_least_float32(self.project(input_of(heads)))) / 16, self.heads)


class KeyDecay(nn.Module):
    """sigmoid(k)^(1/16) of each channel of a key, without parameters (Liger, arXiv:2503.01496, section 3.2)."""

    def forward(self, heads: Heads) -> Decays:
        """Decays that follow from the keys before they are mapped."""
        return F.logsigmoid(at_least_float32(heads.k)) / 16


class StepDecay(nn.Module):
    """exp(-a dt) with dt = softplus(Wx + b): a step of a diagonal linear system (Mamba-2, arXiv:2405.21060).

    a starts between 1 and 16, dt between 0.001 and 0.1, both as published.

    Args:
        shape: The layer.
        width: Width of the layer's input.
        rank: Rank of W, with a dt for each key channel; None for one dt for each head.
        scales_keys: Whether keys are to be multiplied by dt, as in Mamba-2.
    """

    def __init__(
        self, shape: AttentionShape, width: int, *, rank: int | None = None, scales_keys: bool = False
    ) -> None:
        super().__init__()
        self.scales_keys = scales_keys
        self.heads = shape.kv_heads
        steps = self.heads * (shape.head_dim if rank else 1)
        inner: list[nn.Module] = [nn.Linear(width, rank, bias=False)] if rank else []
        self.project = nn.Sequential(*inner, nn.Linear(rank or width, steps, bias=False))
        self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        first = torch.empty(steps).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.bias = nn.Parameter(first + torch.log(-torch.expm1(-first)))  # softplus of it is `first`

    def steps(self, heads: Heads) -> Decays:
        """dt."""
        return by_head(F.softplus(at_least_float32(self.project(input_of(heads))) + self.bias), self.heads)

    def forward(self, heads: Heads) -> Decays:
        """Decays that follow from the layer's input."""
        return -self.log_rate.exp()[:, None, None] * self.steps(heads)


class Strength(nn.Module):
    """beta = sigmoid(Wx) of the delta rule, or twice that.

    Args:
        shape: The layer.
        width: Width of the layer's input.
        negative: Whether beta reaches 2, so that a write can reverse what the state holds for a key.
    """

    def __init__(self, shape: AttentionShape, width: int, negative: bool) -> None:
        super().__init__()
        self.project = nn.Linear(width, shape.kv_heads, bias=False)
        self.largest = 2.0 if negative else 1.0

    def forward(self, heads: Heads) -> Float[Tensor, "b hk n"]:
        """The strength of each token's write."""
        return self.largest * at_least_float32(self.project(input_of(heads))).sigmoid().transpose(1, 2)


class GatedNorm(nn.Module):
    """RMS norm of each head's output, times an activation of a projection of the layer's input.

    Args:
        shape: The layer.
        gate: The projection; None for a norm without a gate.
        activation: Activation of the gate.
        state_space: Whether the gate comes before the norm and a learned multiple of the value is added, as in Mamba-2.
    """

    def __init__(
        self,
        shape: AttentionShape,
        gate: nn.Module | None = None,
        *,
        activation: Callable[[Tensor], Tensor] = F.silu,
        state_space: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.head_dim))
        self.pass_by = nn.Parameter(torch.ones(shape.heads)) if state_space else None
        self.gate = gate
        self.activation = activation

    def forward(
        self, out: Float[Tensor, "b h n d"], v: Float[Tensor, "b hk n d"], heads: Heads
    ) -> Float[Tensor, "b h n d"]:
        """The normalised and gated output; `v` holds the values that the recurrence read."""
        exact = at_least_float32(out)
        gate: Tensor | None = None
        if self.gate is not None:
            gate = self.activation(by_head(at_least_float32(self.gate(input_of(heads))), out.shape[1]))
        if self.pass_by is not None:
            exact = exact + self.pass_by[:, None, None] * v.repeat_interleave(out.shape[1] // v.shape[1], dim=1)
            exact, gate = exact if gate is None else exact * gate, None
        normed = F.rms_norm(exact, [out.shape[-1]], self.weight.to(exact.dtype), 1e-5)
        return normed if gate is None else normed * gate


def low_rank(width: int, rank: int, out: int) -> nn.Sequential:
    """A projection of a rank, with a bias."""
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, out))
