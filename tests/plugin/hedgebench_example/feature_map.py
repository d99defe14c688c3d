"""The feature map of the mechanism `softplus`."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hedgebench.kernels.maps.feature_map import FeatureMap, Role


class SoftplusMap(FeatureMap):
    """φ(x) = log(1 + exp(βx)) / β: positive everywhere, and ReLU for large β."""

    def __init__(self, heads: int, head_dim: int, *, beta: float = 1.0, role: Role = "query", seed: int = 0) -> None:
        super().__init__(heads, head_dim, role=role, seed=seed)
        self.feature_dim = head_dim
        self.beta = beta

    def forward(
        self, x: Float[Tensor, "b h n d"], positions: Int[Tensor, "b n"] | Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "b h n f"]:
        """Gives softplus(βx) / β."""
        del positions
        return F.softplus(x, beta=self.beta)
