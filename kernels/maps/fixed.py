"""Feature maps without trained weights: 1+ELU, ReLU, exp(t·x), cosFormer, Performer and no map at all."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .feature_map import FeatureMap, Positions, Role


class EluMap(FeatureMap):
    """φ(x) = 1 + ELU(x) (Katharopoulos et al., arXiv 2006.16236)."""

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features 1 + ELU(x), which are 1 + x above 0 and exp(x) below.

        They are computed in float32 at least, without the subtraction in ELU: exp(x) - 1 + 1 loses small features.
        """
        del positions
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (F.relu(wide) + wide.clamp(max=0.0).exp()).to(x.dtype)


class ReluMap(FeatureMap):
    """φ(x) = ReLU(x): the map of T2R (arXiv 2103.13076) without its projection.

    The Hedgehog authors' code clamps features at 1e-12. Here the eps of the normaliser prevents a division by zero, and
    a query whose features are all zero has an output of zero.
    """

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features ReLU(x)."""
        del positions
        return F.relu(x)


class IdentityLinearMap(FeatureMap):
    """φ(x) = x, the control without a map. Scores may be negative, so normalising by their sum is unsafe."""

    positive = False

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The input x."""
        del positions
        return x


class ExpMap(FeatureMap):
    """φ(x) = exp(t·x), elementwise (Hedgehog, arXiv 2402.04347). In log space: returns t·x."""

    log_space = True

    def __init__(self, heads: int, head_dim: int, *, t: float | int = 1.0, role: Role = "query", seed: int = 0) -> None:
        """Builds the map.

        Args:
            heads: heads of the tensor it is applied to.
            head_dim: size of one head's vectors; also the number of features.
            t: temperature; the paper tries 1 and 2.
            role: not used.
            seed: not used.
        """
        super().__init__(heads, head_dim, role=role, seed=seed)
        self.t = float(t)

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The logarithms t·x of the features."""
        del positions
        return self.t * x.to(torch.promote_types(x.dtype, torch.float32))


class CosformerMap(FeatureMap):
    """φ(x) at token i, from 1, is [ReLU(x)·cos(πi/2M), ReLU(x)·sin(πi/2M)]; f = 2d (cosFormer, arXiv 2202.08791).

    So φ(q_i)·φ(k_j) = ReLU(q_i)·ReLU(k_j)·cos(π(i-j)/2M). The Hedgehog authors' later code sets M to the current
    length, which makes a token's output depend on how many follow; here M is fixed.
    """

    needs_positions = True

    def __init__(self, heads: int, head_dim: int, *, length: int, role: Role = "query", seed: int = 0) -> None:
        """Builds the map.

        Args:
            heads: heads of the tensor it is applied to.
            head_dim: d; the map has 2d features.
            length: M, the longest sequence in tokens.
            role: not used.
            seed: not used.

        Raises:
            ValueError: length is not positive.
        """
        super().__init__(heads, head_dim, role=role, seed=seed)
        if length < 1:
            raise ValueError(f"cosformer needs length >= 1 token, got {length}")
        self.length = length
        self.feature_dim = 2 * head_dim

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The re-weighted features.

        Args:
            x: head vectors.
            positions: positions from 0 to `length` - 1. They are not checked on CUDA, where a check would synchronise.

        Raises:
            ValueError: no positions, or a position on the CPU outside 0..length-1.
        """
        if positions is None:
            raise ValueError("cosformer needs positions, got None: its features depend on a token's position")
        if not positions.is_cuda and positions.numel():
            first, last = int(positions.min()), int(positions.max())
            if first < 0 or last >= self.length:
                raise ValueError(
                    f"cosformer was built for positions 0..{self.length - 1}, got {first}..{last}; raise its length"
                )
        angle = (positions + 1).to(torch.promote_types(x.dtype, torch.float32)) * (math.pi / (2 * self.length))
        angle = angle[:, None, :, None] if positions.ndim == 2 else angle[:, None]
        x = F.relu(x)
        return torch.cat([x * angle.cos().to(x.dtype), x * angle.sin().to(x.dtype)], dim=-1)


class PerformerMap(FeatureMap):
    """Positive orthogonal random features of the softmax kernel, FAVOR+ (Choromanski et al., arXiv 2009.14794).

    With x' = x/d^¼: log φ(x) = w·x' - |x'|²/2 - log(m)/2, so E[φ(q)·φ(k)] = exp(q·k/√d). Rows w are orthogonal within
    blocks of d rows and have the norms of independent Gaussian vectors. Code of the Hedgehog authors' group leaves this
    rescaling out, which makes its estimate biased. One projection, drawn on the CPU from `seed` and never redrawn,
    serves all heads, queries and keys. Computed in float32 at least, outside autocast.

    Attributes:
        projection: [m d], the rows w.
    """

    log_space = True
    estimates_softmax = True
    projection: Float[Tensor, "f d"]

    def __init__(
        self, heads: int, head_dim: int, *, feature_dim: int | None = None, role: Role = "query", seed: int = 0
    ) -> None:
        """Draws the projection.

        Args:
            heads: heads of the tensor it is applied to.
            head_dim: d.
            feature_dim: m, the number of random features; d unless given. The Hedgehog paper does not state its choice.
            role: not used: queries and keys must share the projection.
            seed: seed of the projection; give the query and the key map the same one.
        """
        super().__init__(heads, head_dim, role=role, seed=seed)
        self.feature_dim = feature_dim or head_dim
        self.register_buffer("projection", orthogonal_gaussian(self.feature_dim, head_dim, seed))

    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The logarithms log φ(x)."""
        del positions
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            scaled = x.to(dtype) * math.pow(self.head_dim, -0.25)
            projected: Tensor = scaled @ self.projection.to(dtype).mT
        return projected - scaled.square().sum(-1, keepdim=True) / 2 - math.log(self.feature_dim) / 2


def orthogonal_gaussian(rows: int, dim: int, seed: int) -> Float[Tensor, "{rows} {dim}"]:
    """Draws Gaussian rows that are orthogonal within each block of `dim`, with norms of independent Gaussian vectors.

    Args:
        rows: number of rows.
        dim: length of a row.
        seed: seed of a CPU generator; the same seed gives the same rows on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(math.ceil(rows / dim), dim, dim, generator=generator, dtype=torch.float64)
    rotations, triangles = torch.linalg.qr(blocks)
    # The signs make the rotations uniform: LAPACK's QR chooses the sign of each column from the entries of the block.
    signs = triangles.diagonal(dim1=-2, dim2=-1).sign()
    directions: Tensor = (rotations * signs[:, None]).mT.flatten(0, 1)[:rows]
    norms: Tensor = torch.randn(rows, dim, generator=generator, dtype=torch.float64).norm(dim=-1, keepdim=True)
    return (directions * norms).float()
