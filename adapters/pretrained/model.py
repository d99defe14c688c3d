"""A pretrained Transformer with its attention swapped, driven like the models trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..attention.core import Heads
from ..attention_model import AttentionModel
from ..spec import ModelSpec
from .interface import cache_argument, token_positions
from .state_cache import StateCache
from .swap import CORE, Swap, is_encoder, swap_attention

_LEARNED_POSITIONS = frozenset({"bert", "gpt2"})


@dataclass(frozen=True)
class PretrainedState:
    """Decode state of a whole model.

    Attributes:
        cache: One state for each layer.
        positions: Position of the next token of each row.
    """

    cache: StateCache
    positions: Int[Tensor, " b"]

    @property
    def bytes(self) -> int:
        """Bytes of all the tensors that decoding carries on."""
        return self.cache.bytes


class PretrainedModel(AttentionModel):
    """A model of transformers around an attention mechanism.

    Args:
        inner: The model, with a head for the task.
        swap: What its attention was replaced with.
        separator: Id of the token that ends a segment, for encoders that tell two segments apart; None for others.
        no_teacher: Why the softmax model before conversion is not at hand; empty where `inner` has its weights.
    """

    def __init__(self, inner: PreTrainedModel, swap: Swap, separator: int | None = None, no_teacher: str = "") -> None:
        super().__init__()
        self.inner = inner
        self.swap = swap
        self.separator = separator
        self.no_teacher = no_teacher
        self._kept: dict[str, Tensor] = {}

    def replace_attention(self, spec: ModelSpec, *, context_length: int, seed: int) -> None:
        """Takes the attention out again that is in place, and puts that of `spec` in; errors as of `swap_attention`."""
        self.swap.undo()
        self.swap = swap_attention(self.inner, spec, context_length=context_length, seed=seed)

    def forward(
        self, inputs: Int[Tensor, "b n"] | Float[Tensor, "b c y x"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n v"] | Float[Tensor, "b classes"]:
        """Next-token logits of a decoder, class logits of an encoder; padding may stand on either side."""
        logits: Tensor = self.inner(**self._arguments(inputs, mask)).logits
        return logits

    def hidden(
        self, inputs: Int[Tensor, "b n"] | Float[Tensor, "b c y x"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b m w"]:
        """Outputs of the last layer; the head does not run."""
        out: Tensor = self.inner.base_model(**self._arguments(inputs, mask)).last_hidden_state
        return out

    def extend(
        self, tokens: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None, state: PretrainedState | None
    ) -> tuple[Float[Tensor, "b v"], PretrainedState]:
        """Logits after the last of `tokens`, which follow those in `state`; padding goes on the left."""
        cache = StateCache(len(self.swap.bridges)) if state is None else state.cache
        positions = token_positions(len(tokens), tokens.shape[1], mask, tokens.device)
        if state is not None:
            positions = positions + state.positions[:, None]
        out = self.inner(
            input_ids=tokens,
            attention_mask=self._over_all_tokens(mask, cache),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(type(self.inner).forward): cache},
        )
        return out.logits[:, -1], PretrainedState(cache, positions[:, -1] + 1)

    def attention_weights(
        self, inputs: Int[Tensor, "b n"] | Float[Tensor, "b c y x"], mask: Bool[Tensor, "b n"] | None = None
    ) -> list[Float[Tensor, "b h n n"]]:
        """Attention weights of each layer, in float32."""
        weights: list[Tensor] = []

        def watch(layer: int, heads: Heads, _: Tensor) -> None:
            bridge = self.swap.bridges[layer]
            with torch.autocast(heads.q.device.type, enabled=False):  # weights are there to be analysed
                weights.append(bridge.core.weights(heads, causal=bridge.causal))

        with self.swap.watching(watch, teaching=False):
            self.hidden(inputs, mask)
        return weights

    def keep_teacher(self) -> None:
        """Copies the base weights to host memory, before fine-tuning changes them; feature maps are no part of them."""
        base = ((name, value) for name, value in self.inner.named_parameters() if f".{CORE}." not in name)
        self._kept = {name: value.detach().to("cpu", copy=True) for name, value in base}

    @torch.no_grad()
    def teacher_heads(
        self, inputs: Int[Tensor, "b n"] | Float[Tensor, "b c y x"], mask: Bool[Tensor, "b n"] | None = None
    ) -> list[Heads]:
        """Heads of each layer of the softmax model before conversion, on the same inputs; none where it is not at hand.

        Softmax attention's outputs flow on. Base weights are those of `keep_teacher`, or the present ones where
        nothing was kept: distillation leaves them alone. Memory is linear in the tokens.
        """
        heads: list[Heads] = []
        if not self.no_teacher:
            with self._teacher_weights(), self.swap.watching(lambda _, seen, __: heads.append(seen), teaching=True):
                self.hidden(inputs, mask)
        return heads

    @property
    def last_position(self) -> int | None:
        """Learned positions, or None where they are rotary: those go on past what the model was trained on."""
        config: Any = self.inner.config
        return config.max_position_embeddings if config.model_type in _LEARNED_POSITIONS else None

    def _arguments(self, inputs: Tensor, mask: Tensor | None) -> dict[str, Any]:
        if inputs.is_floating_point():
            return {"pixel_values": inputs}
        positions = token_positions(len(inputs), inputs.shape[1], mask, inputs.device)
        arguments: dict[str, Any] = {"input_ids": inputs, "attention_mask": mask, "position_ids": positions}
        if not is_encoder(self.inner):
            return {**arguments, "use_cache": False}
        if self.separator is not None:
            arguments["token_type_ids"] = segment_ids(inputs, mask, self.separator)
        return arguments

    @contextmanager
    def _teacher_weights(self) -> Iterator[None]:
        """While the block lasts, kept weights and those of the model have changed places."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """One weight after another, so that never more than one is held twice."""
        for name, value in self.inner.named_parameters():
            if name in self._kept:
                present = value.detach().to("cpu", copy=True)
                value.copy_(self._kept[name])
                self._kept[name] = present

    @staticmethod
    def _over_all_tokens(mask: Tensor | None, cache: StateCache) -> Tensor | None:
        """transformers wants a mask over the tokens in the cache too; those are masked by what the cache holds."""
        if mask is None or not (seen := cache.get_seq_length()):
            return mask
        return torch.cat([mask.new_ones(len(mask), seen), mask], dim=1)


def segment_ids(tokens: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None, separator: int) -> Int[Tensor, "b n"]:
    """BERT's segment ids: 0 up to and with the first separator, 1 from there to the end, 0 at padding."""
    is_separator = (tokens == separator).long()
    segments = (is_separator.cumsum(1) - is_separator).clamp(max=1)
    return segments if mask is None else segments * mask
