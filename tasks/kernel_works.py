"""What the tasks `kernels/*` time: a forward pass, gradients, one decoded token, and the distillation loss.

A work makes, of a shape, the calls that are timed; each is named by the metric that it becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from .cuda_graphs import capture_stream
from .kernel_calls import (
    CONTENDERS,
    MAP,
    Attention,
    KernelInputs,
    make_inputs,
    map_features,
    peer_function,
    softmax,
)
from .kernel_shapes import KernelShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..kernels.choice import LinearAttentionResult

Call: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Prepared:
    """What a contender runs at a shape.

    Attributes:
        calls: What is timed, by the name of its metric without the unit.
        ran: Kernel that ran in a trial of them, form and backend.
    """

    calls: Mapping[str, Call]
    ran: str


Prepare: TypeAlias = Callable[[KernelShape, "torch.device", "torch.dtype"], Prepared]


def forward(attend: Attention) -> Prepare:
    """The forward pass, without gradients."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Prepared:
        inputs = make_inputs(shape, device, dtype)
        return Prepared({"forward": lambda: attend(inputs)}, attend(inputs)[1])

    return prepare


def backward(attend: Attention) -> Prepare:
    """Gradients of queries, keys, values and maps: alone, and after a forward pass."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Prepared:
        import torch

        inputs = _with_gradients(make_inputs(shape, device, dtype))
        with torch.enable_grad(), capture_stream(device):
            output, ran = attend(inputs)
        upstream = torch.ones_like(output)

        def pull(output: Tensor) -> object:
            return torch.autograd.grad(output, inputs.leaves, upstream, retain_graph=True, allow_unused=True)

        def both() -> object:
            with torch.enable_grad():
                return pull(attend(inputs)[0])

        return Prepared({"backward": lambda: pull(output), "forward_backward": both}, ran)

    return prepare


def decode_hedgehog(backend: str) -> Prepare:
    """One token of every sequence; its state is of one size whatever came before, and a kernel changes it in place."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Prepared:
        from ..kernels.hedgehog import fused_recurrent_hedgehog_attn
        from ..kernels.state import empty_state

        token = make_inputs(shape, device, dtype, tokens=1)
        maps = (token.q_weight, token.k_weight)
        state = empty_state(_features(token)[1], token.v)

        def call() -> LinearAttentionResult:
            return fused_recurrent_hedgehog_attn(
                token.q, token.k, token.v, *maps, state=state, feature_map=MAP, backend=backend
            )

        ran = call().kernel
        return Prepared({"decode": call}, f"{ran.form}/{ran.backend}")

    return prepare


def decode_flash_linear_attention(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Prepared:
    """One token of every sequence by flash-linear-attention's recurrent kernel, a new state for each."""
    token = make_inputs(shape, device, dtype, tokens=1)
    recurrent = peer_function("fla.ops.linear_attn", "fused_recurrent_linear_attn", token)
    v, size = token.v.transpose(1, 2), (shape.batch, shape.heads, 2 * shape.head_dim)
    state = (v.new_zeros(*size, shape.head_dim).float(), v.new_zeros(size[0], 1, *size[1:]).float())

    def call() -> object:
        q, k = (map_features(x, w) for x, w in ((token.q, token.q_weight), (token.k, token.k_weight)))
        return recurrent(q, k, v, scale=1.0, initial_state=state, output_final_state=True, normalize=True)

    call()
    return Prepared({"decode": call}, "fused_recurrent/fla")


def decode_softmax(backend: str) -> Prepare:
    """One token of every sequence that sees a KV cache of the shape's tokens."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Prepared:
        cache = make_inputs(shape, device, dtype)
        inputs = replace(cache, q=cache.q[:, :, -1:])
        return Prepared({"decode": lambda: softmax(backend)(inputs)}, softmax(backend)(inputs)[1])

    return prepare


def distillation(backend: str) -> Prepare:
    """The loss between softmax attention's rows and ours, and the gradients of both maps' features."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Prepared:
        import torch

        from ..kernels.distillation import attention_distillation_loss

        inputs = make_inputs(shape, device, dtype)
        phi_q, phi_k = (features.detach().requires_grad_() for features in _features(inputs))

        def loss() -> Any:
            with torch.enable_grad():
                if backend == "quadratic":
                    return _quadratic_loss(inputs, phi_q, phi_k)
                found = attention_distillation_loss(inputs.q, inputs.k, phi_q, phi_k, causal=True, backend=backend)
                return found.cross_entropy.sum(), f"{found.kernel.form}/{found.kernel.backend}"

        def step() -> object:
            return torch.autograd.grad(loss()[0], (phi_q, phi_k))

        return Prepared({"distillation": step}, loss()[1])

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
    from ..kernels.learned_maps import hedgehog_features

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
        "fla": decode_flash_linear_attention,
        "softmax-flash": decode_softmax("sdpa_flash"),
        "softmax-naive": decode_softmax("naive"),
    },
    "distillation": {
        "hedgehog": distillation("auto"),
        "hedgehog-torch": distillation("torch"),
        "quadratic": distillation("quadratic"),
    },
}
"""Contenders by work."""
