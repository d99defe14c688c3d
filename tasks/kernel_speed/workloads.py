"""What the tasks `kernels/*` time: a forward pass, gradients, one decoded token, and the distillation loss.

A work makes, of a shape, inputs and the calls on them that are timed. The first time that a call is made compiles and
tunes, so none is made before that can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from ..measuring.cuda_graphs import capture_stream
from .contenders import (
    CONTENDERS,
    MAP,
    Attention,
    KernelInputs,
    compiled_map,
    make_inputs,
    map_features,
    peer_function,
    softmax,
)
from .shapes import KernelShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Call: TypeAlias = Callable[[], tuple[Any, str]]
"""Computes something; gives it and what ran, such as `chunk/triton`."""

Prepare: TypeAlias = Callable[[KernelShape, "torch.device", "torch.dtype"], Mapping[str, Call]]
"""Makes the inputs of a shape, and gives the calls that are timed on them, by the names of their metrics without the
unit. They are to be made in this order; none has been made before."""


def forward(attend: Attention) -> Prepare:
    """The forward pass, without gradients."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, Call]:
        inputs = make_inputs(shape, device, dtype)
        return {"forward": lambda: attend(inputs)}

    return prepare


class Gradients:
    """Gradients of queries, keys, values and maps: after a forward pass, and alone.

    Args:
        attend: The attention.
        inputs: What it is computed of, and what gets gradients.
    """

    def __init__(self, attend: Attention, inputs: KernelInputs) -> None:
        self.attend, self.inputs = attend, inputs
        self._upstream: Tensor | None = None

    def after_forward(self) -> tuple[Any, str]:
        """A forward pass and the gradients."""
        output, ran = self._forward()
        return self._pulled(output, retain_graph=False), ran

    def alone(self) -> tuple[Any, str]:
        """The gradients of one forward pass, which is kept."""
        output, ran = self._kept
        return self._pulled(output, retain_graph=True), ran

    @cached_property
    def _kept(self) -> tuple[Tensor, str]:
        """A forward pass, on the stream that its backward pass can be captured on."""
        with capture_stream(self.inputs.q.device):
            return self._forward()

    def _forward(self) -> tuple[Tensor, str]:
        import torch

        with torch.enable_grad():
            return self.attend(self.inputs)

    def _pulled(self, output: Tensor, *, retain_graph: bool) -> object:
        import torch

        if self._upstream is None:
            self._upstream = torch.ones_like(output)
        leaves = self.inputs.leaves
        return torch.autograd.grad(output, leaves, self._upstream, retain_graph=retain_graph, allow_unused=True)


def backward(attend: Attention) -> Prepare:
    """Gradients after a forward pass, then alone: what is kept for those takes memory."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, Call]:
        gradients = Gradients(attend, _with_gradients(make_inputs(shape, device, dtype)))
        return {"forward_backward": gradients.after_forward, "backward": gradients.alone}

    return prepare


def decode_hedgehog(backend: str) -> Prepare:
    """One token of every sequence; its state is of one size whatever came before, and a kernel changes it in place."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, Call]:
        from ...kernels.hedgehog import fused_recurrent_hedgehog_attn
        from ...kernels.state import empty_state

        token = make_inputs(shape, device, dtype, tokens=1)
        maps = (token.q_weight, token.k_weight)
        state = empty_state(_features(token)[1], token.v)

        def call() -> tuple[Any, str]:
            result = fused_recurrent_hedgehog_attn(
                token.q, token.k, token.v, *maps, state=state, feature_map=MAP, backend=backend
            )
            return result.output, f"{result.kernel.form}/{result.kernel.backend}"

        return {"decode": call}

    return prepare


def decode_flash_linear_attention(compiled: bool) -> Prepare:
    """One token of every sequence by flash-linear-attention's recurrent kernel, a new state for each."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, Call]:
        token = make_inputs(shape, device, dtype, tokens=1)
        recurrent = peer_function("fla.ops.linear_attn", "fused_recurrent_linear_attn", token)
        mapped = compiled_map(shape) if compiled else map_features
        v, size = token.v.transpose(1, 2), (shape.batch, shape.heads, 2 * shape.head_dim)
        state = (v.new_zeros(*size, shape.head_dim).float(), v.new_zeros(size[0], 1, *size[1:]).float())

        def call() -> tuple[Any, str]:
            q, k = (mapped(x, w) for x, w in ((token.q, token.q_weight), (token.k, token.k_weight)))
            output, _ = recurrent(q, k, v, scale=1.0, initial_state=state, output_final_state=True, normalize=True)
            return output, f"fused_recurrent/fla{'+compiled map' if compiled else ''}"

        return {"decode": call}

    return prepare


def decode_softmax(backend: str) -> Prepare:
    """One token of every sequence that sees a KV cache of the shape's tokens."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, Call]:
        cache = make_inputs(shape, device, dtype)
        inputs = replace(cache, q=cache.q[:, :, -1:])
        return {"decode": lambda: softmax(backend)(inputs)}

    return prepare


def distillation(backend: str) -> Prepare:
    """The loss between softmax attention's rows and ours, and the gradients of both maps' features."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, Call]:
        import torch

        from ...kernels.distillation.loss import attention_distillation_loss

        inputs = make_inputs(shape, device, dtype)
        phi_q, phi_k = (features.detach().requires_grad_() for features in _features(inputs))

        def loss() -> Any:
            with torch.enable_grad():
                if backend == "quadratic":
                    return _quadratic_loss(inputs, phi_q, phi_k)
                found = attention_distillation_loss(inputs.q, inputs.k, phi_q, phi_k, causal=True, backend=backend)
                return found.cross_entropy.sum(), f"{found.kernel.form}/{found.kernel.backend}"

        def step() -> tuple[Any, str]:
            found, ran = loss()
            return torch.autograd.grad(found, (phi_q, phi_k)), ran

        return {"distillation": step}

    return prepare


def _quadratic_loss(inputs: KernelInputs, phi_q: Tensor, phi_k: Tensor) -> tuple[Tensor, str]:
    """The same loss with all weights in memory, as LoLCATs computes it."""
    import torch

    n = inputs.q.shape[2]
    hidden = torch.ones(n, n, dtype=torch.bool, device=inputs.q.device).triu(1)
    scores = (inputs.q @ inputs.k.mT).float() * inputs.q.shape[-1] ** -0.5
    teacher = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    student = (phi_q.float() @ phi_k.float().mT).masked_fill(hidden, 0.0)
    logs = (student / student.sum(-1, keepdim=True)).clamp_min(1e-12).log()
    return -(teacher * logs).sum(-1).mean((0, 2)).sum(), "quadratic/torch"


def _features(inputs: KernelInputs) -> tuple[Tensor, Tensor]:
    """Features of queries and keys by torch."""
    from ...kernels.maps.learned import hedgehog_features

    return (
        hedgehog_features(inputs.q, inputs.q_weight, None, map=MAP, negate=True),
        hedgehog_features(inputs.k, inputs.k_weight, None, map=MAP, negate=True),
    )


def _with_gradients(inputs: KernelInputs) -> KernelInputs:
    q, k, v, q_weight, k_weight = (leaf.detach().requires_grad_() for leaf in inputs.leaves)
    return KernelInputs(inputs.shape, q, k, v, q_weight, k_weight)


WORKS: Mapping[str, Mapping[str, Prepare]] = {
    "forward": {name: forward(attend) for name, attend in CONTENDERS.items()},
    "backward": {name: backward(attend) for name, attend in CONTENDERS.items()},
    "decode": {
        "hedgehog": decode_hedgehog("auto"),
        "hedgehog-torch": decode_hedgehog("torch"),
        "fla": decode_flash_linear_attention(compiled=False),
        "fla-compiled-map": decode_flash_linear_attention(compiled=True),
        "softmax-flash": decode_softmax("sdpa_flash"),
        "softmax-cudnn": decode_softmax("sdpa_cudnn"),
        "softmax-naive": decode_softmax("naive"),
    },
    "distillation": {
        "hedgehog": distillation("auto"),
        "hedgehog-torch": distillation("torch"),
        "quadratic": distillation("quadratic"),
    },
}
"""Contenders by work."""


def products_of(work: str, device: torch.device, dtype: torch.dtype) -> str:
    """What our kernels make their products of, for inputs of a type: the machine's peak is measured of the same.

    Triton's are of bfloat16, and of float16 in TF32; distillation takes three products in TF32 for one in float32.
    """
    name = str(dtype).removeprefix("torch.")
    if device.type != "cuda":
        return name
    return "tf32x3" if work == "distillation" else {"float16": "tf32"}.get(name, name)
