"""A pretrained Transformer with swapped attention, behind the interface of the models trained from scratch."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..attention.core import token_positions, tokens_seen
from ..attention_model import AttentionModel, Mask, Outputs, Tokens
from ..spec import ModelSpec
from .interface import cache_argument
from .sites import call_arguments, last_position
from .state_cache import Packing, StateCache
from .swap import Swap, swap_attention

Inputs: TypeAlias = Tokens | Float[Tensor, "b c y x"]
"""Tokens or images."""


class PretrainedModel(AttentionModel):
    """A model of transformers with another attention mechanism.

    Args:
        inner: The model, with a head for the task.
        swap: The replacement of its attention.
        separator: Id of the token that ends a segment, for encoders that tell two segments apart; None for others.
        no_teacher: Why the softmax model before conversion is not available; empty if `inner` has its weights.
    """

    def __init__(self, inner: PreTrainedModel, swap: Swap, separator: int | None = None, no_teacher: str = "") -> None:
        super().__init__(no_teacher)
        self.inner = inner
        self.swap = swap
        self.separator = separator
        self._last_position = last_position(inner)

    @property
    def spec(self) -> ModelSpec:
        """The present attention mechanism."""
        return self.swap.spec

    def replace_attention(self, spec: ModelSpec, *, context_length: int, seed: int) -> None:
        """Replaces the present attention by that of `spec`; arguments and errors are those of `swap_attention`."""
        self.swap.undo()
        self.swap = swap_attention(self.inner, spec, context_length=context_length, seed=seed)

    def forward(self, inputs: Inputs, mask: Mask = None) -> Outputs:
        """Next-token logits of a decoder, class logits of an encoder; padding is on either side."""
        logits: Tensor = self.inner(**self._arguments(inputs, mask)).logits
        return logits

    def hidden(self, inputs: Inputs, mask: Mask = None) -> Float[Tensor, "b m w"]:
        """Outputs of the last layer; the head does not run."""
        out: Tensor = self.inner.base_model(**self._arguments(inputs, mask)).last_hidden_state
        return out

    def extend(self, tokens: Tokens, mask: Mask, state: StateCache | None) -> tuple[Float[Tensor, "b v"], StateCache]:
        """Logits after the last of `tokens`, which follow those in `state`; padding is on the left."""
        cache = StateCache(len(self.swap.bridges)) if state is None else state
        positions = token_positions(tokens, mask)
        if cache.seen is not None:
            positions = positions + cache.seen[:, None]
        cache.seen = tokens_seen(tokens, mask, cache.seen)
        if mask is not None and (seen := cache.get_seq_length()):  # transformers wants a mask over cached tokens too
            mask = torch.cat([mask.new_ones(len(mask), seen), mask], dim=1)
        out = self.inner(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(type(self.inner).forward): cache},
        )
        return out.logits[:, -1], cache

    def predictions(
        self, tokens: Tokens, real: Bool[Tensor, "b n"], state: StateCache | None, wanted: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "wanted v"], StateCache]:
        """Logits after the `wanted` tokens, row after row, and the new state.

        All layers but attention read the real tokens of all rows as one row, so padding costs next to nothing.
        """
        cache = StateCache(len(self.swap.bridges)) if state is None else state
        positions = token_positions(tokens, real)
        if cache.seen is not None:
            positions = positions + cache.seen[:, None]
        cache.seen = tokens_seen(tokens, real, cache.seen)
        cache.packing = Packing(real, positions)
        out = self.inner(
            input_ids=tokens[real][None],
            position_ids=positions[real][None],
            use_cache=True,
            logits_to_keep=wanted[real].nonzero()[:, 0],
            **{cache_argument(type(self.inner).forward): cache},
        )
        cache.packing = None
        return out.logits[0], cache

    @property
    def last_position(self) -> int | None:
        """Number of learned positions; None for rotary positions, which have no end."""
        return self._last_position

    def _arguments(self, inputs: Tensor, mask: Tensor | None) -> dict[str, Any]:
        is_decoder = self.swap.bridges[0].causal
        arguments = call_arguments(self.inner, inputs, mask, use_cache=False if is_decoder else None)
        if self.separator is not None:
            arguments["token_type_ids"] = segment_ids(inputs, mask, self.separator)
        return arguments


def segment_ids(tokens: Tokens, mask: Mask, separator: int) -> Int[Tensor, "b n"]:
    """BERT's segment ids: 0 up to and including the first separator, then 1, and 0 at padding."""
    is_separator = (tokens == separator).long()
    segments = (is_separator.cumsum(1) - is_separator).clamp(max=1)
    return segments if mask is None else segments * mask
