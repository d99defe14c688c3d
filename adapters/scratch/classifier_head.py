"""The head of a classifier of tokens: one vector for each row, and class logits from it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def build_head(features: int, hidden_width: int, num_classes: int) -> nn.Module:
    """A linear layer from `features` to class logits, or with a hidden width two layers around a ReLU."""
    if not hidden_width:
        return nn.Linear(features, num_classes)
    return nn.Sequential(nn.Linear(features, hidden_width), nn.ReLU(), nn.Linear(hidden_width, num_classes))


def mean_of_tokens(hidden: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b w"]:
    """The mean over real tokens; zeros for a row without any."""
    if mask is None:
        return hidden.mean(1)
    real = mask[..., None].to(hidden.dtype)
    return (hidden * real).sum(1) / real.sum(1).clamp(min=1)


def compare_towers(pooled: Float[Tensor, "rows w"]) -> Float[Tensor, "pairs features"]:
    """`[x, y, x * y, x - y]` of each pair of neighbouring rows: the features of Long Range Arena's retrieval task.

    Source: Tay et al., arXiv 2011.04006, section 2.2.3, and its published code.
    """
    x, y = pooled[0::2], pooled[1::2]
    return torch.cat([x, y, x * y, x - y], dim=-1)
