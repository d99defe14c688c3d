"""What is timed against what: Hedgehog's attention by our kernels and torch forms, its peers, and softmax attention.

Peers compute the same mathematics as ours: features [softmax(Wx), softmax(-Wx)] per head, causal, normalised. Softmax
attention is another model; it is the one that linear attention replaces.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ...adapters.base import UnsupportedError
from .shapes import KernelShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAP = "softmax"
"""Hedgehog's map in these benchmarks: LoLCATs' and ThunderKittens', which peers can compute too."""


@dataclass(frozen=True)
class KernelInputs:
    """Random tensors of one shape, standard normal.

    Attributes:
        shape: Their sizes.
        q, k, v: `[b h n d]`, tokens before heads in memory, as projections leave them.
        q_weight, k_weight: `[h d d]`, matrices of the maps: identities and a little noise.
    """

    shape: KernelShape
    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor
    k_weight: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What gets gradients."""
        return self.q, self.k, self.v, self.q_weight, self.k_weight


Attention: TypeAlias = Callable[[KernelInputs], tuple[Any, str]]
"""Computes `[b h n d]` (any order of heads and tokens) of inputs; gives it and what ran, such as `chunk/triton`."""


def make_inputs(shape: KernelShape, device: torch.device, dtype: torch.dtype, *, tokens: int = 0) -> KernelInputs:
    """The same numbers for every contender; `tokens` in place of the shape's."""
    import torch

    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device).to(dtype)

    size = (shape.batch, tokens or shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (normal(*size).transpose(1, 2) for _ in range(3))
    eye = torch.eye(shape.head_dim, device=device, dtype=dtype)
    weights = [eye + 0.02 * normal(shape.heads, shape.head_dim, shape.head_dim) for _ in range(2)]
    return KernelInputs(shape, q, k, v, weights[0], weights[1])


def hedgehog(backend: str) -> Attention:
    """Ours, on a backend of `chunk_hedgehog_attn`."""

    def attend(inputs: KernelInputs) -> tuple[Any, str]:
        from ...kernels.hedgehog import chunk_hedgehog_attn

        _require_cuda(inputs, "our Triton kernels", backend == "triton")
        result = chunk_hedgehog_attn(
            inputs.q, inputs.k, inputs.v, inputs.q_weight, inputs.k_weight, feature_map=MAP, backend=backend
        )
        return result.output, f"{result.kernel.form}/{result.kernel.backend}"

    return attend


def softmax(backend: str) -> Attention:
    """Softmax attention on a backend of `kernels.dispatch.softmax_attention`."""

    def attend(inputs: KernelInputs) -> tuple[Any, str]:
        from ...kernels.dispatch import softmax_attention

        _require_cuda(inputs, "cuDNN's attention", backend == "sdpa_cudnn")
        result = softmax_attention(inputs.q, inputs.k, inputs.v, causal=True, backend=backend)
        return result.output, f"{result.kernel.form}/{result.kernel.backend}"

    return attend


def flash_linear_attention(compiled: bool) -> Attention:
    """flash-linear-attention's chunk form and normaliser, after the map as torch runs it or compiles it."""

    def attend(inputs: KernelInputs) -> tuple[Any, str]:
        chunk_linear_attn = peer_function("fla.ops.linear_attn", "chunk_linear_attn", inputs)
        mapped = compiled_map(inputs.shape) if compiled else map_features
        q, k = mapped(inputs.q, inputs.q_weight), mapped(inputs.k, inputs.k_weight)
        output, _ = chunk_linear_attn(q, k, inputs.v.transpose(1, 2), scale=1.0, normalize=True)
        return output.transpose(1, 2), f"chunk/fla{'+compiled map' if compiled else ''}"

    return attend


CONTENDERS: Mapping[str, Attention] = {
    "hedgehog": hedgehog("auto"),
    "hedgehog-torch": hedgehog("torch"),
    "fla": flash_linear_attention(compiled=False),
    "fla-compiled-map": flash_linear_attention(compiled=True),
    "softmax-flash": softmax("sdpa_flash"),
    "softmax-cudnn": softmax("sdpa_cudnn"),
    "softmax-naive": softmax("naive"),
}
"""Contenders of the forward and the backward pass, by the names they are given in results."""


def map_features(x: Tensor, weight: Tensor) -> Tensor:
    """Features `[b n h 2d]` of `[b h n d]`, in the order of flash-linear-attention's tensors."""
    import torch

    y = torch.einsum("bhnd,hdw->bnhw", x, weight)
    return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1)


@functools.lru_cache(maxsize=1)
def compiled_map(shape: KernelShape) -> Callable[[Tensor, Tensor], Tensor]:  # noqa: ARG001
    """`map_features` through torch.compile, for the tensors of one shape.

    torch.compile keeps eight versions of a function and runs a ninth as plain Python, so what it keeps is dropped
    before another shape; and where it could not compile all of the function it raises.
    """
    import torch

    torch.compiler.reset()
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(map_features, dynamic=False, fullgraph=True)
    return compiled


def _require_cuda(inputs: KernelInputs, what: str, needed: bool) -> None:
    """Refuses what has no kernel for the processor.

    Raises:
        UnsupportedError: It is needed and there is none.
    """
    if needed and inputs.q.device.type != "cuda":
        raise UnsupportedError(f"{what} run on CUDA; these tensors are on {inputs.q.device.type}")


def peer_function(module: str, name: str, inputs: KernelInputs) -> Any:
    """A function of flash-linear-attention.

    Raises:
        UnsupportedError: Tensors are not on CUDA, or it is not installed.
    """
    _require_cuda(inputs, "flash-linear-attention's kernels", True)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UnsupportedError(f"{module} cannot be imported ({error}); the extra `fla` brings it") from error
