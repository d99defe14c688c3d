"""The inside of an attention layer: what takes the place of softmax once queries, keys and values are projected."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...kernels.choice import KernelChoice
from ...kernels.hybrid.state import HybridState
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.state import LinearState
from ..mechanisms.declaration import AttentionShape, Mechanism, OptionValue, load_attribute
from .kv_cache import KVCache

LayerState = KVCache | LinearState | HybridState | None
"""What one attention layer carries between decoded tokens."""


@dataclass(frozen=True)
class Heads:
    """Projected heads of n tokens, and where those tokens stand.

    Attributes:
        q: Queries.
        k: Keys; with grouped queries there are fewer heads of them.
        v: Values.
        positions: Position of each token in its sequence, from 0.
        key_padding_mask: True at real tokens; None when none is padded.
        scale: Factor on q·k in softmax; 1/√d unless given.
    """

    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b hk n d"]
    v: Float[Tensor, "b hk n d"]
    positions: Int[Tensor, "b n"]
    key_padding_mask: Bool[Tensor, "b n"] | None = None
    scale: float | None = None


class AttentionCore(nn.Module):
    """Attention over projected heads. One class for each kind, all with the same three methods.

    Attributes:
        kernels_used: Kernels that ran so far, by phase (`train`, `forward`, `prefill`, `decode`), in the order they
            first did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels_used: dict[tuple[str, KernelChoice], None] = {}

    @abstractmethod
    def forward(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n d"]:
        """Attention outputs over a whole sequence; padded keys are not seen."""

    @abstractmethod
    def extend(self, heads: Heads, state: LayerState) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Causal outputs for tokens that follow those in `state` (None at the start), and the new state."""

    @abstractmethod
    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Attention weights, quadratic in memory; meant for analysis."""

    def record(self, phase: str, choice: KernelChoice) -> None:
        """Remembers that a kernel ran."""
        self.kernels_used[phase, choice] = None

    def phase_of_forward(self) -> str:
        """What a call of `forward` is part of."""
        return "train" if torch.is_grad_enabled() else "forward"

    def phase_of_extend(self, state: LayerState) -> str:
        """What a call of `extend` is part of; a core without a state takes every one for a prefill."""
        return "prefill" if state is None else "decode"


def build_attention(mechanism: Mechanism, options: Mapping[str, OptionValue], shape: AttentionShape) -> AttentionCore:
    """The attention of `mechanism` for one layer.

    Args:
        mechanism: The declaration.
        options: Every option's value, from `Mechanism.resolve`.
        shape: The layer.

    Raises:
        ValueError: The options do not fit the layer.
    """
    core: Any = load_attribute(mechanism.attention_for(options))
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
