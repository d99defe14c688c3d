"""Attention distillation as an operator of torch.library: Triton kernels on CUDA, tiles in plain torch elsewhere."""

import torch
from torch import Tensor

from ..triton.operator import flat
from .call import DistillationCall
from .tiled_scores import FeatureGradients, factored
from .tiles import tiled_loss

RAN = ("torch", "triton")
"""The backends, by the number that the operator returns."""

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@flat
def run_distillation(call: DistillationCall) -> Results:
    """Cross-entropy and KL divergence [l g], gradients of both features (else empty), and the index of what ran."""
    if call.backend == "triton":
        factors = factored(call.phi_q, call.phi_k, causal=call.causal, log_space=call.log_space)
        if factors is not None:
            cross_entropy, kl, gradients = _by_triton(call, factors)
            return cross_entropy, kl, gradients.queries, gradients.keys, _what("triton")
    wanted = call.zero_gradients() if call.with_gradients else None
    cross_entropy, kl = tiled_loss(call, wanted)
    gradients = wanted or _empty(call.q)
    return cross_entropy, kl, gradients.queries, gradients.keys, _what("torch")


distillation = torch.library.custom_op("hedgebench::attention_distillation", run_distillation, mutates_args=())
"""`run_distillation` as an operator."""


@distillation.register_fake
@flat
def _shapes(call: DistillationCall) -> Results:
    heads = call.q.new_empty(call.q.shape[:2])
    groups, (leading, keys, features) = call.q.shape[1], call.phi_k.shape
    gradients = _empty(call.q)
    if call.with_gradients:
        by_head = call.q.new_empty(leading, groups, keys, features)
        gradients = FeatureGradients(call.q.new_empty(call.phi_q.shape), by_head)
    return heads, torch.empty_like(heads), gradients.queries, gradients.keys, _what("torch")


def _by_triton(call: DistillationCall, factors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, FeatureGradients]:
    from .launch import distill

    cross_entropy, kl, gradients = distill(call, factors)
    if gradients is None:
        return cross_entropy, kl, _empty(call.q)
    if call.log_space:
        gradients.queries.mul_(factors[0])
        gradients.keys.mul_(factors[1][:, None])
    return cross_entropy, kl, gradients


def _what(backend: str) -> Tensor:
    """The index of a backend in `RAN`, as a tensor on the CPU: reading it does not wait for a device."""
    return torch.tensor(RAN.index(backend))


def _empty(like: Tensor) -> FeatureGradients:
    return FeatureGradients(like.new_empty(0), like.new_empty(0))
