"""Feature maps with a trained matrix per head: Hedgehog and its variants, T2R, and Taylor after a projection."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...results.names import unknown_name
from .feature_map import FeatureMap, Positions, Role, without_autocast
from .fixed import orthogonal_gaussian


class HedgehogMap(FeatureMap):
    """Hedgehog's trainable map φ(x) = Φ(Wx + b), one W per head (arXiv 2402.04347, §4), in four variants.

    With y = Wx + b (W is stored as the paper's W^T x + b has it, [d w] for each head):
        exp: [exp(y), exp(-y)], the paper's equation, in log space: returns [y, -y].
        exp_max: [exp(y - max y), exp(-y + min y)], maxima over a token's features, as the authors' later code does.
        softmax: [softmax(y), softmax(-y)], each over its own features (LoLCATs, arXiv 2410.10254).
        softmax_joint: one softmax over [2y, -2y] (flash-linear-attention's HedgehogFeatureMap).
    The last three take a shift per token off a key's exponents. It does not cancel in the normaliser, so they are
    different models. The authors' code clamps features at 1e-12. That is not needed here, as none of these maps makes
    all features of a token zero.

    Attributes:
        weight: W, [h d w], initially the identity unless `init` says otherwise.
        bias: b, [h w], initially zero; None without a bias.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        map: str = "exp",
        negate: bool = True,
        bias: bool = False,
        feature_dim: int | None = None,
        init: str = "identity",
        role: Role = "query",
        seed: int = 0,
    ) -> None:
        """Builds the map with its initial weights.

        Args:
            heads: heads of the tensor it is applied to.
            head_dim: d.
            map: which variant Φ is: "exp", "exp_max", "softmax" or "softmax_joint".
            negate: also use -y; without it only the half of +y is computed, and softmax_joint is softmax(2y).
            bias: add a bias. Without biases, Llama-2-7B's maps hold 0.495% of all parameters, as the paper reports.
            feature_dim: w, the columns of W; d unless given. Below d, W is the first w columns of the identity; above
                d, further columns are random directions of unit length. The attribute `feature_dim` is 2w with
                `negate`, else w.
            init: "identity", the paper's initialisation, or "random", a control: uniform within ±1/√d as in torch's
                Linear, drawn separately for each head, for queries and for keys.
            role: with `init="random"` queries and keys draw different weights from the same seed.
            seed: seed of the random columns or weights.

        Raises:
            ValueError: an unknown `map` or `init`.
        """
        super().__init__(heads, head_dim, role=role, seed=seed)
        for option, value, known in (("map", map, list(HEDGEHOG_MAPS)), ("init", init, ["identity", "random"])):
            if value not in known:
                raise unknown_name(f"hedgehog {option}", value, known)
        width = feature_dim or head_dim
        self.map = map
        self.negate = negate
        self.log_space = map == "exp"
        self.feature_dim = width * (2 if negate else 1)
        if init == "identity":
            weight = _extended_identity(head_dim, width, seed).repeat(heads, 1, 1)
        else:
            weight = _uniform_rows(heads * head_dim, width, head_dim**-0.5, role, seed).reshape(heads, head_dim, width)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(heads, width)) if bias else None

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features φ(x), computed in float32 at least; log φ(x) for the variant exp."""
        del positions
        return hedgehog_features(x, self.weight, self.bias, map=self.map, negate=self.negate)


class T2RMap(FeatureMap):
    """φ(x) = ReLU(Wx + b), one W and b per head (Transformer-to-RNN, Kasai et al., arXiv 2103.13076).

    Initial weights are uniform within ±1/√d as in torch's Linear, drawn separately for queries and for keys.

    Attributes:
        weight: W, [h d f].
        bias: b, [h f].
    """

    def __init__(
        self, heads: int, head_dim: int, *, feature_dim: int | None = None, role: Role = "query", seed: int = 0
    ) -> None:
        """Draws the initial weights.

        Args:
            heads: heads of the tensor it is applied to.
            head_dim: d.
            feature_dim: number of features; d unless given.
            role: queries and keys draw different weights from the same seed.
            seed: seed of the weights.
        """
        super().__init__(heads, head_dim, role=role, seed=seed)
        self.feature_dim = feature_dim or head_dim
        uniform = _uniform_rows(heads * (head_dim + 1), self.feature_dim, head_dim**-0.5, role, seed)
        self.weight = nn.Parameter(uniform[heads:].reshape(heads, head_dim, self.feature_dim).clone())
        self.bias = nn.Parameter(uniform[:heads].clone())

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features ReLU(Wx + b)."""
        del positions
        return F.relu(per_head_linear(x, self.weight, self.bias))


class TaylorMap(FeatureMap):
    """Second-order Taylor expansion of exp with the symmetric half of its squares (Based, arXiv 2402.18668).

    φ(x) = [1, x/d^¼, x_i·x_j/√d for i<j, x_i²/√(2d)], so φ(q)·φ(k) = 1 + z + z²/2 with z = q·k/√d, never below 1/2;
    f = 1 + d + d(d+1)/2. With `feature_dim` = w the map first projects to w dimensions by a learned matrix per head, as
    Based does with w = 16, and w takes the place of d in these formulas. Without it the map has no parameters.

    Attributes:
        weight: [h d w], the projection; None without one.
        width: w, or d without a projection.
    """

    estimates_softmax = True

    def __init__(
        self, heads: int, head_dim: int, *, feature_dim: int | None = None, role: Role = "query", seed: int = 0
    ) -> None:
        """Builds the map.

        Args:
            heads: heads of the tensor it is applied to.
            head_dim: d.
            feature_dim: w, dimensions to project to before the expansion; no projection unless given.
            role: queries and keys draw different projections from the same seed.
            seed: seed of the projection, uniform within ±1/√d as torch's Linear.
        """
        super().__init__(heads, head_dim, role=role, seed=seed)
        self.width = feature_dim or head_dim
        self.feature_dim = 1 + self.width + self.width * (self.width + 1) // 2
        uniform = _uniform_rows(heads * head_dim, self.width, head_dim**-0.5, role, seed)
        self.weight = nn.Parameter(uniform.reshape(heads, head_dim, self.width)) if feature_dim else None

    @staticmethod
    def of_products(products: Tensor) -> Tensor:
        """1 + z + z²/2."""
        return torch.addcmul(1 + products, products, products, value=0.5)

    def product_vectors(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n w"]:
        """The vectors x/w^¼, after the projection if there is one."""
        projected = x if self.weight is None else per_head_linear(x, self.weight, None)
        return projected.mul(self.width**-0.25)

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features φ(x) of the expansion, in the input's type."""
        del positions
        scaled = self.product_vectors(x)
        row, column = torch.triu_indices(self.width, self.width, device=x.device)
        factors = torch.ones_like(row, dtype=x.dtype).masked_fill(row == column, math.sqrt(0.5))
        squares = scaled[..., row] * scaled[..., column] * factors
        return torch.cat([torch.ones_like(scaled[..., :1]), scaled, squares], dim=-1)


def hedgehog_features(
    x: Float[Tensor, "b h n d"],
    weight: Float[Tensor, "h d w"],
    bias: Float[Tensor, "h w"] | None,
    *,
    map: str,
    negate: bool = True,
) -> Float[Tensor, "b h n f"]:
    """The features φ(x) of `HedgehogMap`, computed in float32 at least, outside autocast.

    The variant exp returns log φ(x) in float32 at least; the other variants return φ(x) in the input's type.

    Raises:
        ValueError: an unknown variant.
    """
    if map not in HEDGEHOG_MAPS:
        raise unknown_name("hedgehog map", map, HEDGEHOG_MAPS)
    with without_autocast(x.device.type):
        y = per_head_linear(x.to(torch.promote_types(x.dtype, torch.float32)), weight, bias)
    signs = torch.cat([y, -y], dim=-1) if negate else y
    mapped = HEDGEHOG_MAPS[map](torch.unflatten(signs, -1, (-1, weight.shape[-1])))
    return mapped if map == "exp" else mapped.to(x.dtype)


def per_head_linear(
    x: Float[Tensor, "b h n d"], weight: Float[Tensor, "h d f"], bias: Float[Tensor, "h f"] | None
) -> Float[Tensor, "b h n f"]:
    """Applies one matrix per head, x·W + b, in the input's type."""
    weight = weight.to(x.dtype)
    # For a batch of one, bmm avoids the broadcasting of matmul, which takes as long as the product of one chunk.
    projected = torch.bmm(x.squeeze(0), weight)[None] if x.shape[0] == 1 else x @ weight
    return projected if bias is None else projected + bias.to(projected.dtype)[:, None]


def _extended_identity(dim: int, width: int, seed: int) -> Float[Tensor, "{dim} {width}"]:
    """The first `width` columns of the identity, with random unit columns after the first `dim`."""
    identity = torch.eye(dim, min(dim, width))
    if width <= dim:
        return identity
    return torch.cat([identity, F.normalize(orthogonal_gaussian(width - dim, dim, seed), dim=-1).mT], dim=-1)


def _uniform_rows(rows: int, columns: int, bound: float, role: Role, seed: int) -> Float[Tensor, "{rows} {columns}"]:
    """Numbers drawn uniformly from [-bound, bound); queries and keys of one seed draw different ones."""
    generator = torch.Generator().manual_seed(2 * seed + (role == "key"))
    return (torch.rand(rows, columns, generator=generator) * 2 - 1) * bound


HEDGEHOG_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda y: y.flatten(-2),
    "exp_max": lambda y: (y - y.amax(-1, keepdim=True)).exp().flatten(-2),
    "softmax": lambda y: y.softmax(-1).flatten(-2),
    "softmax_joint": lambda y: (2 * y).flatten(-2).softmax(-1),
}
"""Φ by the name of the variant: a function of [y, -y] as [.. 2 w], or of y alone as [.. 1 w]."""
