"""Gated and delta-rule attention: a recurrence with decays, between convolved projections and a gated norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...kernels.gated.attention import gated_attention
from ...kernels.gated.forms import gated_weights
from ...kernels.gated.rule import GatedResult, GatedRule
from ...kernels.maps.feature_map import without_autocast
from ..attention.core import Attended, AttentionCore, Heads, LayerState
from ..attention.fla import fla_gated_attention
from ..attention.recurrent_state import RecurrentState
from ..attention.softmax import attend_to_cache, softmax_weights
from ..mechanisms.declaration import AttentionShape
from .gates import (
    ChannelDecay,
    FixedDecay,
    GatedNorm,
    KeyDecay,
    StepDecay,
    Streams,
    Strength,
    at_least_float32,
    low_rank,
    unit_length,
    width_of,
)


class GatedAttention(AttentionCore):
    """Causal attention by a recurrence (see `kernels.gated.rule.GatedRule`), whose state does not grow.

    Args:
        streams: Queries, keys and values as the recurrence reads them.
        decay: Logarithms of decays from heads; None for none.
        strength: beta of the delta rule from heads; None for plain sums.
        norm: Norm and gate of the output; None for none.
        scale: Factor on the output of the recurrence.
        window: Keys of a sliding softmax window whose output is averaged with that of the recurrence; None for none.
        kernels: `fla` for that package's kernels, None for our own.
    """

    def __init__(
        self,
        streams: Streams,
        decay: nn.Module | None,
        *,
        scale: float,
        strength: Strength | None = None,
        norm: GatedNorm | None = None,
        window: int | None = None,
        kernels: str | None = None,
    ) -> None:
        super().__init__()
        self.streams = streams
        self.decay = decay
        self.strength = strength
        self.norm = norm
        self.scale = scale
        self.window = window
        self.run: Callable[..., GatedResult] = gated_attention if kernels is None else fla_gated_attention

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """The normalised outputs of the recurrence.

        Raises:
            ValueError: A call that is not causal.
            UnsupportedError: The call lacks the layer's input, or kernels of another package cannot run it.
        """
        assert state is None or isinstance(state, RecurrentState)
        _require_causal(causal)
        before = state or RecurrentState(None)
        rule, tail = self.rule(heads, before.tail)
        result = self.run(
            rule, key_padding_mask=heads.key_padding_mask, initial_state=before.sums, return_state=return_state
        )
        out, cache = result.output, None
        if self.norm is not None:
            out = self.norm(out, rule.v, heads)
        if self.window is not None:
            near, cache, _ = attend_to_cache(heads, before.window, window=self.window, return_state=return_state)
            out = (out + near) / 2
        return out.to(heads.v.dtype), RecurrentState(result.state, tail, cache), result.kernel

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """The weights of the (convolved) values in the outputs of the recurrence, before norm and gate.

        Those of the delta rule, and of keys that are not positive, can be negative.

        Raises:
            ValueError: A call that is not causal.
        """
        _require_causal(causal)
        parameter = next(self.parameters(), None)
        dtype = at_least_float32(heads.q).dtype if parameter is None else parameter.dtype
        # Visitors of attention call this with autocast off, and with heads in its type.
        given = {name: getattr(heads, name) for name in ("q", "k", "v", "inputs")}
        exact: dict[str, Any] = {name: x.to(dtype) for name, x in given.items() if x is not None}
        rule, _ = self.rule(replace(heads, **exact), None)
        with without_autocast(heads.q.device.type):
            far = gated_weights(rule.without_padding(heads.key_padding_mask).exact())
        return far if self.window is None else (far + softmax_weights(heads, causal, self.window)) / 2

    def rule(self, heads: Heads, tail: Tensor | None) -> tuple[GatedRule, Tensor | None]:
        """What the recurrence reads, and the last inputs of the convolution; `tail` holds the earlier ones."""
        q, k, v, tail = self.streams(heads, tail)
        decay = k.new_zeros(*k.shape[:3], 1) if self.decay is None else self.decay(heads)
        if isinstance(self.decay, StepDecay) and self.decay.scales_keys:
            k = at_least_float32(k) * self.decay.steps(heads)
        beta = None if self.strength is None else self.strength(heads)
        return GatedRule(q, k, v, decay, beta, self.scale), tail


def retention(shape: AttentionShape, *, rope: bool, kernels: str | None = None) -> GatedAttention:
    """RetNet's multi-scale retention: fixed decays, rotary positions, a norm of each head and a SiLU gate."""
    width = width_of(shape, "retention")
    norm = GatedNorm(shape, _square(shape, width))
    return GatedAttention(
        Streams(shape, rotated=rope), FixedDecay(shape), scale=shape.head_dim**-0.5, norm=norm, kernels=kernels
    )


def gla(shape: AttentionShape, *, gates: str, window: int | None = None, kernels: str | None = None) -> GatedAttention:
    """Gated linear attention; with `gates="keys"` Liger's form of it, which has no parameters.

    Raises:
        ValueError: A window without gates from keys.
    """
    if gates == "keys":
        streams = Streams(shape, features=partial(torch.softmax, dim=-1))
        return GatedAttention(streams, KeyDecay(), scale=1.0, window=window, kernels=kernels)
    if window is not None:
        raise ValueError(f"gla:window={window} is the hybrid of Liger, which needs gates=keys")
    width = width_of(shape, "gla")
    norm = GatedNorm(shape, _square(shape, width))
    scale = shape.head_dim**-0.5
    return GatedAttention(Streams(shape), ChannelDecay(shape, width), scale=scale, norm=norm, kernels=kernels)


def mamba2(shape: AttentionShape, *, kernels: str | None = None) -> GatedAttention:
    """Mamba-2's state-space duality: C, B and x are convolved queries, keys and values; dt scales keys and decays."""
    width = width_of(shape, "mamba2")
    decay = StepDecay(shape, width, scales_keys=True)
    norm = GatedNorm(shape, _square(shape, width), state_space=True)
    return GatedAttention(Streams(shape, convolved=True), decay, scale=1.0, norm=norm, kernels=kernels)


def deltanet(shape: AttentionShape, *, negative: bool, kernels: str | None = None) -> GatedAttention:
    """DeltaNet: the delta rule without decay on convolved keys of length 1, and a norm of each head."""
    return _delta(shape, "deltanet", None, GatedNorm(shape), negative, kernels)


def gated_deltanet(shape: AttentionShape, *, negative: bool, kernels: str | None = None) -> GatedAttention:
    """Gated DeltaNet: the delta rule with one decay for each head, a norm of each head and a SiLU gate."""
    width = width_of(shape, "gated_deltanet")
    norm = GatedNorm(shape, _square(shape, width))
    return _delta(shape, "gated_deltanet", StepDecay(shape, width), norm, negative, kernels)


def kda(shape: AttentionShape, *, negative: bool, kernels: str | None = None) -> GatedAttention:
    """Kimi Delta Attention: the delta rule with a decay for each key channel, a norm of each head, a sigmoid gate."""
    width, rank = width_of(shape, "kda"), shape.head_dim
    norm = GatedNorm(shape, low_rank(width, rank, shape.heads * shape.head_dim), activation=torch.sigmoid)
    return _delta(shape, "kda", StepDecay(shape, width, rank=rank), norm, negative, kernels)


def _delta(
    shape: AttentionShape, name: str, decay: nn.Module | None, norm: GatedNorm, negative: bool, kernels: str | None
) -> GatedAttention:
    strength = Strength(shape, width_of(shape, name), negative)
    streams = Streams(shape, convolved=True, features=unit_length)
    scale = shape.head_dim**-0.5
    return GatedAttention(streams, decay, scale=scale, strength=strength, norm=norm, kernels=kernels)


def _square(shape: AttentionShape, width: int) -> nn.Linear:
    return nn.Linear(width, shape.heads * shape.head_dim, bias=False)


def _require_causal(causal: bool) -> None:
    if not causal:
        raise ValueError("gated attention is a recurrence over earlier tokens; it needs causal attention")
