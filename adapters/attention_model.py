"""The model behind an adapter: its common interface, trained from scratch or pretrained."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention.core import Heads
from .base import DecodeState


class AttentionModel(nn.Module):
    """A model of tokens or images: a decoder with next-token logits, or an encoder with class logits.

    Attributes:
        no_teacher: Why no softmax model before conversion exists; empty if it does.
    """

    no_teacher = "the model did not start from pretrained weights, so no softmax model came before it"

    @abstractmethod
    def forward(
        self, inputs: Tensor, mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n v"] | Float[Tensor, "b classes"]:
        """Next-token logits of a decoder, class logits of an encoder; `mask` is true at real tokens."""

    @abstractmethod
    def extend(
        self, tokens: Tensor, mask: Bool[Tensor, "b n"] | None, state: Any
    ) -> tuple[Float[Tensor, "b v"], DecodeState]:
        """Logits after the last of `tokens`, which follow those in `state`; padding is on the left."""

    @abstractmethod
    def attention_weights(
        self, inputs: Tensor, mask: Bool[Tensor, "b n"] | None = None
    ) -> list[Float[Tensor, "b h n n"]]:
        """Attention weights of each layer, in float32."""

    def teacher_heads(self, inputs: Tensor, mask: Bool[Tensor, "b n"] | None = None) -> list[Heads]:
        """Heads of each layer of the softmax model before conversion, on the same inputs; empty without one."""
        del inputs, mask
        return []

    @property
    @abstractmethod
    def last_position(self) -> int | None:
        """Number of the model's own positions; None if they have no end."""
