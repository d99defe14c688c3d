"""What the tasks `kernels/*` time: a forward pass, gradients, one decoded token, and the distillation loss.

A workload makes inputs of a shape and the calls on them that are timed. It runs none of these calls itself, because the
first run of each, which compiles and tunes, is timed apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeAlias

from ..heavy import Tensor, torch
from ..measuring.cuda_graphs import capture_stream
from .contenders import (
    CONTENDERS,
    EXP,
    MAP,
    Attention,
    KernelInputs,
    make_inputs,
    name_of,
    peer_function,
    peer_map,
    softmax,
)
from .shapes import KernelShape

TimedCall: TypeAlias = Callable[[], tuple[Any, str]]
"""Computes something; returns it and what ran, such as `chunk/triton`."""

TimedCalls: TypeAlias = Mapping[str, TimedCall]
"""The calls to time, in order, by the names of their metrics without the unit."""

Prepare: TypeAlias = Callable[[KernelShape, "torch.device", "torch.dtype"], TimedCalls]
"""Makes the inputs of a shape and the calls on them."""


def forward(attend: Attention, shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, TimedCall]:
    """The forward pass, without gradients."""
    return {"forward": partial(attend, make_inputs(shape, device, dtype))}


def backward(attend: Attention, shape: KernelShape, device: torch.device, dtype: torch.dtype) -> TimedCalls:
    """Gradients after a forward pass, then alone; in this order, as the latter keeps a forward pass in memory."""
    inputs = make_inputs(shape, device, dtype)
    leaves = (leaf.detach().requires_grad_() for leaf in inputs.leaves)
    backward_pass = BackwardPass(attend, KernelInputs(shape, *leaves))
    return {"forward_backward": backward_pass.after_forward, "backward": backward_pass.alone}


class BackwardPass:
    """Gradients of queries, keys, values and maps: after a forward pass, and alone.

    Args:
        attend: The attention.
        inputs: Its inputs, which get gradients.
    """

    def __init__(self, attend: Attention, inputs: KernelInputs) -> None:
        self.attend, self.inputs = attend, inputs
        self._upstream: Tensor | None = None

    def after_forward(self) -> tuple[Any, str]:
        """A forward pass and the gradients."""
        output, ran = self._forward()
        return self._gradients(output, retain_graph=False), ran

    def alone(self) -> tuple[Any, str]:
        """The gradients of one forward pass, which is kept."""
        output, ran = self._kept
        return self._gradients(output, retain_graph=True), ran

    @cached_property
    def _kept(self) -> tuple[Tensor, str]:
        """A forward pass, on the stream that its backward pass can be captured on."""
        with capture_stream(self.inputs.q.device):
            return self._forward()

    def _forward(self) -> tuple[Tensor, str]:
        with torch.enable_grad():
            return self.attend(self.inputs)

    def _gradients(self, output: Tensor, *, retain_graph: bool) -> object:
        if self._upstream is None:
            self._upstream = torch.ones_like(output)
        leaves = self.inputs.leaves
        return torch.autograd.grad(output, leaves, self._upstream, retain_graph=retain_graph, allow_unused=True)


def decode_hedgehog(
    backend: str, shape: KernelShape, device: torch.device, dtype: torch.dtype, feature_map: str = MAP
) -> TimedCalls:
    """One token of every sequence; the state has one size for any context, and a kernel changes it in place."""
    from ...kernels.hedgehog import fused_recurrent_hedgehog_attn
    from ...kernels.state import empty_state

    token = make_inputs(shape, device, dtype, tokens=1)
    state = empty_state(_features(token)[1], token.v, log_space=feature_map == "exp")

    def call() -> tuple[Any, str]:
        result = fused_recurrent_hedgehog_attn(*token.leaves, state=state, feature_map=feature_map, backend=backend)
        return result.output, name_of(result.kernel)

    return {"decode": call}


def decode_fla(compiled: bool, shape: KernelShape, device: torch.device, dtype: torch.dtype) -> TimedCalls:
    """One token of every sequence by flash-linear-attention's recurrent kernel, which writes a new state."""
    token = make_inputs(shape, device, dtype, tokens=1)
    recurrent = peer_function("fla.ops.linear_attn", "fused_recurrent_linear_attn", token)
    features = peer_map(shape, compiled)
    v, size = token.v.transpose(1, 2), (shape.batch, shape.heads, 2 * shape.head_dim)
    state = (v.new_zeros(*size, shape.head_dim).float(), v.new_zeros(size[0], 1, *size[1:]).float())

    def call() -> tuple[Any, str]:
        q, k = features(token.q, token.q_weight), features(token.k, token.k_weight)
        output, _ = recurrent(q, k, v, scale=1.0, initial_state=state, output_final_state=True, normalize=True)
        return output, f"fused_recurrent/fla{'+compiled map' if compiled else ''}"

    return {"decode": call}


def decode_softmax(backend: str, shape: KernelShape, device: torch.device, dtype: torch.dtype) -> TimedCalls:
    """One token of every sequence, which attends to a KV cache of the shape's tokens."""
    cache = make_inputs(shape, device, dtype)
    return {"decode": partial(softmax, backend, replace(cache, q=cache.q[:, :, -1:]))}


def distillation(backend: str, shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, TimedCall]:
    """The loss between rows of softmax weights and of Hedgehog's, and gradients of the query and key features."""
    from ...kernels.distillation.loss import attention_distillation_loss

    inputs = make_inputs(shape, device, dtype)
    phi_q, phi_k = (features.detach().requires_grad_() for features in _features(inputs))

    def loss() -> tuple[Any, str]:
        if backend == "quadratic":
            return _quadratic_loss(inputs, phi_q, phi_k)
        found = attention_distillation_loss(inputs.q, inputs.k, phi_q, phi_k, causal=True, backend=backend)
        return found.cross_entropy.sum(), name_of(found.kernel)

    def step() -> tuple[Any, str]:
        with torch.enable_grad():
            found, ran = loss()
        return torch.autograd.grad(found, (phi_q, phi_k)), ran

    return {"distillation": step}


def _quadratic_loss(inputs: KernelInputs, phi_q: Tensor, phi_k: Tensor) -> tuple[Tensor, str]:
    """The same loss with all weights in memory, as LoLCATs computes it."""
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

    features = partial(hedgehog_features, map=MAP, negate=True)
    return features(inputs.q, inputs.q_weight, None), features(inputs.k, inputs.k_weight, None)


WORKLOADS: Mapping[str, Mapping[str, Prepare]] = {
    "forward": {name: partial(forward, attend) for name, attend in CONTENDERS.items()},
    "backward": {name: partial(backward, attend) for name, attend in CONTENDERS.items()},
    "decode": {
        "hedgehog": partial(decode_hedgehog, "auto"),
        f"hedgehog{EXP}": partial(decode_hedgehog, "auto", feature_map="exp"),
        "hedgehog-torch": partial(decode_hedgehog, "torch"),
        "fla": partial(decode_fla, False),
        "fla-compiled-map": partial(decode_fla, True),
        "softmax-flash": partial(decode_softmax, "sdpa_flash"),
        "softmax-cudnn": partial(decode_softmax, "sdpa_cudnn"),
        "softmax-naive": partial(decode_softmax, "naive"),
    },
    "distillation": {
        "hedgehog": partial(distillation, "auto"),
        "hedgehog-torch": partial(distillation, "torch"),
        "quadratic": partial(distillation, "quadratic"),
    },
}
"""Contenders by workload."""


def products_of(work: str, device: torch.device, dtype: torch.dtype) -> str:
    """The type in which our kernels multiply inputs of `dtype`; the machine's peak is measured in the same type.

    Triton multiplies bfloat16 as it is, and float16 in TF32; distillation takes three TF32 products for one in float32.
    """
    name = str(dtype).removeprefix("torch.")
    if device.type != "cuda":
        return name
    return "tf32x3" if work == "distillation" else {"float16": "tf32"}.get(name, name)
