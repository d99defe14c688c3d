"""Based: layers of gated convolutions, of linear attention and of a sliding window, in turns."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels.choice import KernelChoice
from ...kernels.maps.learned import TaylorMap
from ..attention.core import AttentionCore, LayerMixer, LayerState
from ..attention.linear import LinearAttention
from ..attention.position import ShortConvolution
from ..attention.recurrent_state import RecurrentState
from ..attention.softmax import SoftmaxAttention
from ..mechanisms.declaration import AttentionShape
from .gates import width_of

KINDS = ("convolution", "linear", "window", "convolution", "convolution")
"""Kind of a layer by its index modulo 5, as in the authors' configuration for 360M parameters."""


class GatedConvolution(LayerMixer):
    """A short causal convolution, gated by a projection of the input.

    Args:
        width: Width of the layer's input.
        kernel_size: Tokens that an output sees, its own included.
    """

    def __init__(self, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 4 * width)
        self.convolution = ShortConvolution(2 * width, kernel_size)
        self.output = nn.Linear(2 * width, width)

    def mix(
        self, x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None, state: LayerState
    ) -> tuple[Float[Tensor, "b n w"], LayerState, KernelChoice]:
        """The gated convolution; the state is its last inputs."""
        assert state is None or isinstance(state, RecurrentState)
        past, gate = self.enter(x).chunk(2, -1)
        past = past if mask is None else past * mask[..., None]
        convolved, tail = self.convolution(past, None if state is None else state.tail)
        out: Tensor = self.output(F.silu(convolved) * gate)
        return out, RecurrentState(None, tail), KernelChoice("convolution", "torch")


def based(shape: AttentionShape, *, feature_dim: int, window: int) -> AttentionCore | LayerMixer:
    """The layer at the shape's index.

    Args:
        shape: The layer.
        feature_dim: Width of queries and keys before the Taylor expansion.
        window: Keys of the sliding window.

    Raises:
        UnsupportedError: The layer does not pass its input on.
    """
    width = width_of(shape, "based")
    match KINDS[shape.layer % len(KINDS)]:
        case "convolution":
            return GatedConvolution(width)
        case "window":
            return SoftmaxAttention(window=window)
    seed = shape.seed * 1000 + shape.layer
    query_map = TaylorMap(shape.heads, shape.head_dim, feature_dim=feature_dim, role="query", seed=seed)
    key_map = TaylorMap(shape.kv_heads, shape.head_dim, feature_dim=feature_dim, role="key", seed=seed)
    return LinearAttention(query_map, key_map, normalize=True)
