"""The attention that is timed: Hedgehog's by our kernels and torch forms, Hedgehog's by peers, and softmax attention.

Peers compute the same function as ours: features [softmax(Wx), softmax(-Wx)] per head, causal, normalised. Softmax
attention is another function, the one that linear attention replaces; so is ours with the map `exp`, the default
elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ...adapters.base import UnsupportedError
from ..heavy import Tensor, torch
from .shapes import KernelShape

if TYPE_CHECKING:
    from ...kernels.choice import KernelChoice

MAP = "softmax"
"""Hedgehog's map in these benchmarks: that of LoLCATs and ThunderKittens, which peers can compute too."""

EXP = "-exp"
"""End of the names of contenders with the map `exp`, this project's default: another function than the peers'."""


@dataclass(frozen=True)
class KernelInputs:
    """Random tensors of one shape, standard normal.

    Attributes:
        shape: Their sizes.
        q, k, v: `[b h n d]`, with tokens before heads in memory, as projections leave them.
        q_weight, k_weight: `[h d d]`, matrices of the maps: identities with a little noise.
    """

    shape: KernelShape
    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor
    k_weight: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The tensors that get gradients."""
        return self.q, self.k, self.v, self.q_weight, self.k_weight


Attention: TypeAlias = Callable[[KernelInputs], tuple[Any, str]]
"""Computes `[b h n d]` (heads and tokens in any order); returns it and what ran, such as `chunk/triton`."""


def make_inputs(shape: KernelShape, device: torch.device, dtype: torch.dtype, *, tokens: int = 0) -> KernelInputs:
    """Inputs with the same numbers for every contender; `tokens`, unless 0, replaces the shape's number of tokens."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device).to(dtype)

    size = (shape.batch, tokens or shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (normal(*size).transpose(1, 2) for _ in range(3))
    eye = torch.eye(shape.head_dim, device=device, dtype=dtype)
    q_weight, k_weight = (eye + 0.02 * normal(shape.heads, shape.head_dim, shape.head_dim) for _ in range(2))
    return KernelInputs(shape, q, k, v, q_weight, k_weight)


def hedgehog(backend: str, inputs: KernelInputs, feature_map: str = MAP) -> tuple[Any, str]:
    """Hedgehog's attention by this project, on a backend of `chunk_hedgehog_attn`."""
    from ...kernels.hedgehog import chunk_hedgehog_attn

    result = chunk_hedgehog_attn(*inputs.leaves, feature_map=feature_map, backend=backend)
    return result.output, name_of(result.kernel)


def softmax(backend: str, inputs: KernelInputs) -> tuple[Any, str]:
    """Softmax attention, on a backend of `kernels.softmax.attention.softmax_attention`."""
    from ...kernels.softmax.attention import softmax_attention

    if backend == "sdpa_cudnn":
        _require_cuda(inputs, "cuDNN's attention")
    result = softmax_attention(inputs.q, inputs.k, inputs.v, causal=True, backend=backend)
    return result.output, name_of(result.kernel)


def flash_linear_attention(inputs: KernelInputs, *, compiled: bool) -> tuple[Any, str]:
    """flash-linear-attention's chunk form and normaliser, after the map as torch runs it or compiles it."""
    chunk_linear_attn = peer_function("fla.ops.linear_attn", "chunk_linear_attn", inputs)
    features = peer_map(inputs.shape, compiled)
    q, k = features(inputs.q, inputs.q_weight), features(inputs.k, inputs.k_weight)
    output, _ = chunk_linear_attn(q, k, inputs.v.transpose(1, 2), scale=1.0, normalize=True)
    return output.transpose(1, 2), f"chunk/fla{'+compiled map' if compiled else ''}"


CONTENDERS: Mapping[str, Attention] = {
    "hedgehog": partial(hedgehog, "auto"),
    f"hedgehog{EXP}": partial(hedgehog, "auto", feature_map="exp"),
    "hedgehog-torch": partial(hedgehog, "torch"),
    "fla": partial(flash_linear_attention, compiled=False),
    "fla-compiled-map": partial(flash_linear_attention, compiled=True),
    "softmax-flash": partial(softmax, "sdpa_flash"),
    "softmax-cudnn": partial(softmax, "sdpa_cudnn"),
    "softmax-naive": partial(softmax, "naive"),
}
"""Contenders of the forward and the backward pass, by their names in results."""


def name_of(kernel: KernelChoice) -> str:
    """What ran, as results name it."""
    return f"{kernel.form}/{kernel.backend}"


def map_features(x: Tensor, weight: Tensor, feature_map: str = MAP) -> Tensor:
    """Features `[b n h 2d]` of `[b h n d]` by `softmax` or `exp`, in the order of flash-linear-attention's tensors."""
    y = torch.einsum("bhnd,hdw->bnhw", x, weight)
    if feature_map == "exp":
        return torch.cat([y.exp(), (-y).exp()], -1)
    return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1)


def peer_map(shape: KernelShape, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The map of peers for the tensors of one shape, as torch runs it or compiles it."""
    return compiled_map(shape) if compiled else map_features


@lru_cache(maxsize=1)
def compiled_map(shape: KernelShape) -> Callable[[Tensor, Tensor], Tensor]:  # noqa: ARG001
    """`map_features` through torch.compile, for the tensors of one shape.

    torch.compile keeps eight versions of a function and would run a ninth as plain Python, so all versions are dropped
    before another shape is compiled. It raises if it cannot compile the whole function.
    """
    torch.compiler.reset()
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(map_features, dynamic=False, fullgraph=True)
    return compiled


def peer_function(module: str, name: str, inputs: KernelInputs) -> Any:
    """A function of flash-linear-attention.

    Raises:
        UnsupportedError: The tensors are not on CUDA, or flash-linear-attention is not installed.
    """
    _require_cuda(inputs, "flash-linear-attention's kernels")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UnsupportedError(f"{module} cannot be imported ({error}); the extra `fla` brings it") from error


def _require_cuda(inputs: KernelInputs, what: str) -> None:
    if inputs.q.device.type != "cuda":
        raise UnsupportedError(f"{what} run on CUDA; these tensors are on {inputs.q.device.type}")
