"""The common interface of the models behind adapters, trained from scratch or pretrained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention.core import AttentionCore, Heads
from .base import DecodeState

Tokens: TypeAlias = Int[Tensor, "b n"]
Mask: TypeAlias = Bool[Tensor, "b n"] | None
"""True at real tokens; None without padding."""

TowerMask: TypeAlias = Bool[Tensor, "b *t n"] | None
"""A mask of rows that may hold t token sequences each."""

Outputs: TypeAlias = Float[Tensor, "b n v"] | Float[Tensor, "b classes"]
"""Next-token logits of a decoder, or class logits of an encoder."""

HeadsVisitor = Callable[[int, AttentionCore, Heads, bool], object]
"""Called with a layer's index, its attention core, its heads, and whether it is causal; autocast is off."""


class AttentionModel(nn.Module):
    """A model of tokens, vectors or images: a decoder with next-token logits, or an encoder with class logits.

    Attributes:
        no_teacher: Why no softmax model before conversion exists; empty if it does.
    """

    no_teacher = "the model did not start from pretrained weights, so no softmax model came before it"

    @abstractmethod
    def forward(self, inputs: Tensor, mask: TowerMask = None) -> Outputs:
        """Next-token logits of a decoder, class logits of an encoder; `mask` is true at real tokens."""

    @abstractmethod
    def hidden(self, inputs: Tensor, mask: TowerMask = None) -> Float[Tensor, "rows m w"]:
        """Outputs of the last layer; the head does not run."""

    @abstractmethod
    def extend(self, tokens: Tensor, mask: Mask, state: Any) -> tuple[Float[Tensor, "b v"], DecodeState]:
        """Logits after the last of `tokens`, which follow those in `state`; padding is on the left."""

    @property
    def cores(self) -> list[AttentionCore]:
        """The attention core of each layer, first to last."""
        return [part for part in self.modules() if isinstance(part, AttentionCore)]

    @contextmanager
    def watching(self, visit: HeadsVisitor) -> Iterator[None]:
        """Calls `visit` before each layer's attention over a whole sequence, while the block lasts."""
        with ExitStack() as hooks:
            for layer, core in enumerate(self.cores):
                hook = partial(_call_visitor, visit, layer)
                hooks.callback(core.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    def attention_weights(self, inputs: Tensor, mask: TowerMask = None) -> list[Float[Tensor, "rows h m m"]]:
        """Attention weights of each layer, in float32."""
        weights: list[Tensor] = []
        with self.watching(lambda _, core, heads, causal: weights.append(core.weights(heads, causal=causal))):
            self.hidden(inputs, mask)
        return weights

    def teacher_heads(self, inputs: Tensor, mask: TowerMask = None) -> list[Heads]:
        """Heads of each layer of the softmax model before conversion, on the same inputs; empty without one."""
        del inputs, mask
        return []

    @property
    @abstractmethod
    def last_position(self) -> int | None:
        """Number of positions that the model has learned embeddings for; None if its positions have no end."""


def _call_visitor(
    visit: HeadsVisitor, layer: int, core: AttentionCore, args: tuple[Heads], kwargs: dict[str, bool]
) -> None:
    """The hook before a core's forward pass; it turns autocast off, as visitors analyse attention in float32."""
    with torch.autocast(args[0].q.device.type, enabled=False):
        visit(layer, core, args[0], kwargs["causal"])
