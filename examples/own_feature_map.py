"""How near do feature maps come to softmax's attention weights? A map of one's own beside 1+ELU and Hedgehog.

    python examples/own_feature_map.py

Hedgehog's map is distilled first: it learns to give the weights of softmax attention. Takes seconds on a CPU.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

import hedgebench
from hedgebench import EluMap, FeatureMap, HedgehogMap

HEADS, TOKENS, HEAD_DIM = 2, 128, 16


class SoftplusMap(FeatureMap):
    """φ(x) = log(1 + exp(x)), elementwise: replace it by your own."""

    def __init__(self, heads: int, head_dim: int, *, role: Literal["query", "key"] = "query", seed: int = 0) -> None:
        super().__init__(heads, head_dim, role=role, seed=seed)
        self.feature_dim = head_dim

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Features [b h n d] of head vectors [b h n d]."""
        return F.softplus(x)


def divergence(maps: tuple[FeatureMap, FeatureMap], q: Tensor, k: Tensor) -> float:
    """Mean KL(softmax attention ‖ linear attention) of a row, in nats."""
    target = hedgebench.softmax_attention_weights(q, k, causal=True)
    weights = hedgebench.linear_attention_weights(maps[0](q), maps[1](k), causal=True, log_space=maps[0].log_space)
    return float(F.kl_div(weights.clamp_min(1e-12).log(), target, reduction="none").sum(-1).mean())


def distill(maps: tuple[FeatureMap, FeatureMap], steps: int = 100) -> None:
    """Trains the maps' weights to give softmax's attention weights, on vectors drawn anew at each step."""
    optimizer = torch.optim.AdamW([*maps[0].parameters(), *maps[1].parameters()], lr=0.02)
    for step in range(steps):
        q, k = draw(seed=1 + step)
        loss = hedgebench.attention_distillation_loss(
            q, k, maps[0](q), maps[1](k), causal=True, log_space=maps[0].log_space
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss.cross_entropy.mean())
        optimizer.step()


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Queries and keys [1 h n d] whose softmax attention is spiky."""
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, HEADS, TOKENS, HEAD_DIM, generator=generator) * 1.5
    return q, k


def main() -> dict[str, float]:
    """Prints a line for each map, and gives their divergences."""
    q, k = draw(seed=0)
    kinds: dict[str, type[FeatureMap]] = {"softplus": SoftplusMap, "elu": EluMap, "hedgehog": HedgehogMap}
    pairs = {name: (kind(HEADS, HEAD_DIM), kind(HEADS, HEAD_DIM, role="key")) for name, kind in kinds.items()}
    distill(pairs["hedgehog"])
    with torch.no_grad():
        found = {name: divergence(maps, q, k) for name, maps in pairs.items()}
    for name, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"{name:10} {value:.3f} nats from softmax's weights")
    return found


if __name__ == "__main__":
    main()
