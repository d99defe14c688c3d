"""Attention by its model spec: as a module for a model of one's own, or in the place of a pretrained model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...adapters.attention.core import Heads, KeyHeads, LayerState, QueryHeads, build_attention, kernels_of, state_bytes
from ...adapters.attention.softmax import softmax_scores, softmax_weights
from ...adapters.base import AttentionMaps
from ...adapters.mechanisms.declaration import AttentionShape, Mechanism
from ...adapters.spec import ModelSpec, parse_spec
from ...results.record import KernelUse
from .. import registry
from .session import names_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ModelT = TypeVar("ModelT", bound="PreTrainedModel")


@dataclass(frozen=True)
class AttentionState:
    """The state of an `Attention` between calls of `extend`.

    Attributes:
        tokens: Number of tokens so far.
        layer: State of the attention: a KV cache, or sums whose size does not depend on the number of tokens.
    """

    tokens: int = 0
    layer: LayerState = None

    @property
    def bytes(self) -> int:
        """Bytes of the state."""
        return state_bytes(self.layer)


class Attention(nn.Module):
    """Any attention mechanism in the place of `scaled_dot_product_attention`, with its feature maps as parameters.

    Projections, norms and position embeddings are those of the model around it.

    Args:
        spec: Model spec, such as `hedgehog:map=softmax`, or a mechanism of your own.
        heads: Query heads.
        head_dim: Width of each head.
        kv_heads: Key and value heads, if they are fewer.
        context_length: Longest sequence in tokens, for maps that depend on positions.
        layer: Index of the layer: random maps of different layers differ.
        seed: Seed of maps that draw random numbers.

    Attributes:
        spec: The canonical model spec.
        core: The attention core; of a linear attention it has `query_map` and `key_map`.

    Raises:
        UnknownNameError: The mechanism or an option does not exist.
        ValueError: An option does not fit the sizes, or the spec chooses layers of a model.
    """

    def __init__(
        self, spec: str | Mechanism, heads: int, head_dim: int, *, kv_heads: int | None = None,
        context_length: int = 2048, layer: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        parsed = _parsed(spec)
        if parsed.choice is not None:
            raise ValueError(
                f"{parsed.canonical} chooses layers of a model; this is one layer, so leave the choice out"
            )
        shape = AttentionShape(heads, kv_heads or heads, head_dim, context_length, layer, seed)
        self.spec = parsed.canonical
        self.core = build_attention(parsed.mechanism, parsed.options, shape)
        self._is_causal_only = parsed.is_causal_only

    def forward(
        self,
        q: QueryHeads,
        k: KeyHeads,
        v: KeyHeads,
        *,
        causal: bool = True,
        key_padding_mask: Bool[Tensor, "b n"] | None = None,
        positions: Int[Tensor, "b n"] | None = None,
        scale: float | None = None,
    ) -> QueryHeads:
        """Attention outputs `[b h n d]`.

        Args:
            q: Queries `[b h n d]`.
            k: Keys `[b hk n d]`; query head i uses key head i // (h / hk).
            v: Values `[b hk n d]`.
            causal: A token sees the tokens up to itself; otherwise it sees all.
            key_padding_mask: True at real tokens `[b n]`; None without padding.
            positions: Positions of the tokens `[b n]`; 0 to n - 1 if None.
            scale: Factor on q·k in softmax; 1/√d if None. Linear attentions ignore it.

        Raises:
            ValueError: The mechanism exists only in decoders, and `causal` is false.
        """
        if self._is_causal_only and not causal:
            raise ValueError(f"{self.spec} exists only in decoders; allowed: causal=True")
        out: Tensor = self.core(_heads(q, k, v, positions, key_padding_mask, scale), causal=causal)
        return out

    def extend(
        self,
        q: QueryHeads,
        k: KeyHeads,
        v: KeyHeads,
        state: AttentionState | None = None,
        *,
        scale: float | None = None,
    ) -> tuple[QueryHeads, AttentionState]:
        """Causal outputs of tokens that follow those in `state`, and the new state: prefill, then decoding.

        Args:
            q: Queries `[b h n d]` of the next n tokens.
            k: Their keys `[b hk n d]`.
            v: Their values `[b hk n d]`.
            state: State after earlier tokens, which must not be used again; None at the start.
            scale: As in `forward`.
        """
        state = state or AttentionState()
        tokens = state.tokens + q.shape[2]
        positions = torch.arange(state.tokens, tokens, device=q.device).expand(len(q), -1)
        out, layer = self.core.extend(_heads(q, k, v, positions, None, scale), state.layer)
        return out, AttentionState(tokens, layer)

    def weights(self, q: QueryHeads, k: KeyHeads, *, causal: bool = True) -> Float[Tensor, "b h n n"]:
        """Attention weights `[b h n n]` of these queries and keys; a row of a normalised attention sums to 1."""
        return self.core.weights(_heads(q, k, k, None, None, None), causal=causal)

    def maps(self, q: QueryHeads, k: KeyHeads, *, causal: bool = True) -> AttentionMaps:
        """Attention weights beside those of softmax on the same queries and keys, for `hedgebench.compare_maps`.

        They have no gradient.
        """
        heads = _heads(q, k, k, None, None, None)
        with torch.no_grad():
            own, softmax = self.core.weights(heads, causal=causal), softmax_weights(heads, causal)
            return AttentionMaps(own.float(), softmax.float(), softmax_scores(heads, causal).float())

    @property
    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Phase, form and backend of the kernels that have run so far."""
        return tuple(KernelUse(phase, choice.form, choice.backend) for phase, choice in kernels_of(self.core))

    def extra_repr(self) -> str:
        """The spec, for `print`."""
        return self.spec


def _heads(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor | None, mask: Tensor | None, scale: float | None
) -> Heads:
    if positions is None:
        positions = torch.arange(q.shape[2], device=q.device).expand(len(q), -1)
    return Heads(q, k, v, positions, mask, scale)


def _parsed(spec: str | Mechanism) -> ModelSpec:
    return parse_spec(names_of(spec), registry.mechanisms().get)


def swap(model: ModelT, spec: str | Mechanism, *, context_length: int | None = None, seed: int = 0) -> ModelT:
    """Puts another attention into a model of transformers, in place; projections keep their weights.

    A feature map that has to be learnt starts untrained: Hedgehog's at the identity. `convert` distils it.

    Args:
        model: A model whose layers ask transformers' attention interface; it is proven first. One that was swapped
            before gets the new attention instead.
        spec: Model spec, or a mechanism of your own.
        context_length: Longest sequence in tokens, for maps that depend on positions; by default the model's own.
        seed: Seed of maps that draw random numbers.

    Returns:
        The model.

    Raises:
        UnsupportedError: The model's type, or an option in its configuration, cannot be swapped.
        ValueError: An option does not fit the model's sizes.
    """
    from ...adapters.pretrained.swap import swap_attention
    from ..weights.loading import SWAP

    parsed = _parsed(spec)
    if (earlier := getattr(model, SWAP, None)) is not None:
        earlier.undo()
        delattr(model, SWAP)
    length = context_length or _context_length(model)
    setattr(model, SWAP, swap_attention(model, parsed, context_length=length, seed=seed))
    return model


def _context_length(model: PreTrainedModel) -> int:
    """The number of positions of a model; of a model of images, its patches and tokens of its own."""
    from ...adapters.pretrained.sites import image_part, image_positions

    config = model.config
    return int(config.max_position_embeddings) if image_part(config) is None else image_positions(model)
