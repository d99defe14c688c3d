"""The inside of an attention layer: what takes the place of softmax once queries, keys and values are projected.

One class per kind of attention, all with the same three methods, so that a layer never asks which one it holds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..kernels.dispatch import KernelChoice, linear_attention, softmax_attention
from ..kernels.feature_map import FeatureMap
from ..kernels.linear_naive import linear_attention_weights
from ..kernels.softmax_attention import softmax_attention_weights
from ..kernels.state import LinearState
from .kv_cache import KVCache
from .mechanism import AttentionShape, Mechanism, OptionValue, load_attribute

LayerState = KVCache | LinearState | None
"""What one attention layer carries between decoded tokens."""


class AttentionCore(nn.Module):
    """Attention over projected heads: queries [b h n d], keys and values [b hk n d].

    Attributes:
        kernels_used: Kernels that ran so far, by phase (`train`, `forward`, `prefill`, `decode`), as first seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels_used: dict[tuple[str, KernelChoice], None] = {}

    @abstractmethod
    def forward(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """Attention outputs over a whole sequence; padded keys (mask false) are not seen."""

    @abstractmethod
    def extend(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        positions: Int[Tensor, "b n"],
        state: LayerState,
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Causal outputs for tokens that follow those in `state` (None at the start), and the new state."""

    @abstractmethod
    def weights(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """Attention weights, quadratic in memory; meant for analysis."""

    def _record(self, phase: str, choice: KernelChoice) -> None:
        self.kernels_used[phase, choice] = None

    def _phase(self) -> str:
        return "train" if torch.is_grad_enabled() else "forward"


class SoftmaxAttention(AttentionCore):
    """Softmax attention, over all keys or over a sliding window of them.

    Args:
        backend: Kernel, as in `kernels.dispatch.softmax_attention`.
        window: Keys that each query sees, its own included; None for all.
    """

    def __init__(self, backend: str = "auto", window: int | None = None) -> None:
        super().__init__()
        self.backend = backend
        self.window = window

    def forward(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """Softmax attention outputs."""
        del positions
        return self._attend(self._phase(), q, k, v, causal, key_padding_mask)

    def extend(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        positions: Int[Tensor, "b n"],
        state: LayerState,
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Softmax attention outputs; the state is a KV cache, bounded when there is a window."""
        del positions
        phase = "prefill" if state is None else "decode"
        cache = KVCache.empty(k) if state is None else state
        assert isinstance(cache, KVCache)
        cache = cache.append(k, v, key_padding_mask)
        out = self._attend(phase, q, cache.keys, cache.values, True, cache.mask)
        return out, cache if self.window is None else cache.last(self.window)

    def weights(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """Softmax attention weights."""
        del positions
        return softmax_attention_weights(q, k, causal=causal, key_padding_mask=key_padding_mask, window=self.window)

    def _attend(
        self, phase: str, q: Tensor, k: Tensor, v: Tensor, causal: bool, key_padding_mask: Tensor | None
    ) -> Tensor:
        result = softmax_attention(
            q, k, v, causal=causal, key_padding_mask=key_padding_mask, window=self.window, backend=self.backend
        )
        self._record(phase, result.kernel)
        return result.output


class WindowAttention(SoftmaxAttention):
    """Softmax attention over a sliding window alone."""

    def __init__(self, window: int) -> None:
        super().__init__(window=window)


class NoAttention(AttentionCore):
    """No attention: the output is zero, and so are the weights."""

    def forward(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """Zeros."""
        del k, v, causal, positions, key_padding_mask
        self._record(self._phase(), KernelChoice("none", "torch"))
        return torch.zeros_like(q)

    def extend(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        positions: Int[Tensor, "b n"],
        state: LayerState,
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Zeros, and no state."""
        del k, v, positions, state, key_padding_mask
        return torch.zeros_like(q), None

    def weights(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """Zeros."""
        del causal, positions, key_padding_mask
        return torch.zeros(*q.shape[:3], k.shape[2], device=q.device)


class LinearAttention(AttentionCore):
    """Linear attention through feature maps of queries and keys, each with its own weights unless tied.

    Args:
        query_map: Map of the query heads.
        key_map: Map of the key heads; with grouped queries it has one set of weights per key-value head.
        normalize: Divide by the sum of the weights.
    """

    def __init__(self, query_map: FeatureMap, key_map: FeatureMap, normalize: bool) -> None:
        super().__init__()
        self.query_map = query_map
        self.key_map = key_map
        self.normalize = normalize

    def forward(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """Linear attention outputs."""
        out, _ = self._attend(self._phase(), q, k, v, causal, positions, key_padding_mask, None)
        return out

    def extend(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        v: Float[Tensor, "b hk n d"],
        *,
        positions: Int[Tensor, "b n"],
        state: LayerState,
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Linear attention outputs; the state's size does not depend on how many tokens it holds."""
        assert not isinstance(state, KVCache)
        phase = "prefill" if state is None else "decode"
        return self._attend(phase, q, k, v, True, positions, key_padding_mask, state)

    def weights(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b hk n d"],
        *,
        causal: bool,
        positions: Int[Tensor, "b n"],
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """The weights that linear attention never forms otherwise."""
        return linear_attention_weights(
            self.query_map(q, positions),
            self.key_map(k, positions),
            causal=causal,
            key_padding_mask=key_padding_mask,
            normalize=self.normalize,
            log_space=self.query_map.log_space,
        )

    def _attend(
        self,
        phase: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        positions: Tensor,
        key_padding_mask: Tensor | None,
        state: LinearState | None,
    ) -> tuple[Tensor, LinearState | None]:
        result = linear_attention(
            self.query_map(q, positions),
            self.key_map(k, positions),
            v,
            causal=causal,
            key_padding_mask=key_padding_mask,
            normalize=self.normalize,
            log_space=self.query_map.log_space,
            initial_state=state,
            return_state=phase in ("prefill", "decode"),
        )
        self._record(phase, result.kernel)
        return result.output, result.state


def build_attention(mechanism: Mechanism, options: Mapping[str, OptionValue], shape: AttentionShape) -> AttentionCore:
    """The attention of `mechanism` for one layer.

    Args:
        mechanism: The declaration.
        options: Every option's value, from `Mechanism.resolve`.
        shape: The layer.
    """
    core: Any = load_attribute(mechanism.attention)
    layer_options = mechanism.options_for("attention", options)
    if mechanism.feature_map is None:
        built = core(**layer_options)
    else:
        tied = bool(layer_options.pop("tied", False))
        query_map, key_map = _build_maps(mechanism, mechanism.options_for("map", options), shape, tied)
        built = core(query_map, key_map, mechanism.normalize, **layer_options)
    assert isinstance(built, AttentionCore)
    return built


def _build_maps(
    mechanism: Mechanism, options: Mapping[str, OptionValue], shape: AttentionShape, tied: bool
) -> tuple[FeatureMap, FeatureMap]:
    assert mechanism.feature_map is not None
    if tied and shape.heads != shape.kv_heads:
        raise ValueError(
            f"{mechanism.name}:tied=true needs as many key heads as query heads; "
            f"got {shape.heads} query heads and {shape.kv_heads} key heads"
        )
    feature_map: Any = load_attribute(mechanism.feature_map)
    arguments = {"seed": shape.seed * 1000 + shape.layer, **mechanism.map_arguments(shape), **options}
    query_map = feature_map(shape.heads, shape.head_dim, role="query", **arguments)
    key_map = query_map if tied else feature_map(shape.kv_heads, shape.head_dim, role="key", **arguments)
    return query_map, key_map


def state_bytes(state: LayerState) -> int:
    """Bytes that one layer's decode state holds."""
    return 0 if state is None else state.bytes


def kernels_of(module: nn.Module) -> list[tuple[str, KernelChoice]]:
    """Kernels that ran in any attention inside `module`, by phase, in the order first seen."""
    seen: dict[tuple[str, KernelChoice], None] = {}
    for part in module.modules():
        if isinstance(part, AttentionCore):
            seen.update(part.kernels_used)
    return list(seen)
