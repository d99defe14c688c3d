"""A masked language model as a classifier: the logits of its head for one word of each class, at the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..attention_model import Mask, Outputs
from .model import Inputs, PretrainedModel
from .swap import Swap


class WordDecoder(nn.Module):
    """The last layer of a head for masked words, for some words alone; its matrix is that of the embeddings.

    Args:
        embedding: The embeddings, which belong to the model and are trained there.
        bias: Bias of every word of the vocabulary.
        words: Token id of each class's word.
    """

    def __init__(self, embedding: nn.Embedding, bias: Tensor, words: Sequence[int]) -> None:
        super().__init__()
        self.words = list(words)
        self.bias = nn.Parameter(bias.detach()[self.words].clone())
        self._embedding = (embedding,)  # in a tuple, so that it is not a part of this module too

    def forward(self, hidden: Float[Tensor, "b n w"]) -> Float[Tensor, "b n classes"]:
        """Logits of the words at each position."""
        return nn.functional.linear(hidden, self._embedding[0].weight[self.words], self.bias)


class LabelWordModel(PretrainedModel):
    """A masked language model whose class logits are those of a word for each class at the first mask.

    Args:
        inner: BERT with its head for masked words.
        swap: The replacement of its attention.
        separator: Id of the token that ends a segment.
        no_teacher: As in `PretrainedModel`.
        words: Token id of each class's word.
        mask_token: Id of the mask.
    """

    def __init__(
        self,
        inner: PreTrainedModel,
        swap: Swap,
        separator: int | None,
        no_teacher: str,
        *,
        words: Sequence[int],
        mask_token: int,
    ) -> None:
        super().__init__(inner, swap, separator, no_teacher)
        self.mask_token = mask_token
        head: Any = inner.get_submodule("cls.predictions")
        embedding = inner.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        head.decoder = WordDecoder(embedding, head.bias, words)
        del head.bias

    def forward(self, inputs: Inputs, mask: Mask = None) -> Outputs:
        """Class logits; a row without a mask is read at its first real token."""
        logits = super().forward(inputs, mask)
        real = torch.ones_like(inputs, dtype=torch.long) if mask is None else mask.long()
        places = (real + 2 * (inputs == self.mask_token)).argmax(1)
        return logits[torch.arange(len(logits), device=logits.device), places]
