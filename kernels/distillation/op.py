"""Attention distillation as an operator that torch knows: Triton kernels on CUDA, torch's tiles elsewhere."""

import torch
from torch import Tensor

from .tiled_scores import FeatureGradients, factored
from .tiles import DistillationOptions, Problem, tiled_loss, zero_gradients

BACKENDS = ("torch", "triton")
"""What may run, by the number that the operator gives back."""


def run_distillation(
    q: Tensor, k: Tensor, phi_q: Tensor, phi_k: Tensor, shares: Tensor, padding: Tensor | None, causal: bool,
    eps: float, log_space: bool, tile: int | None, with_gradients: bool, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gives cross-entropy and divergence [l g], gradients of both features (empty unless wanted), and what ran.

    Tensors as of `Problem`. The backend "triton" is a wish: log features that no common shift can hold are torch's.
    """
    problem = Problem(q, k, phi_q, phi_k, shares, padding)
    options = DistillationOptions(causal, eps, log_space, tile)
    if backend == "triton":
        factors = factored(phi_q, phi_k, causal=causal, log_space=log_space)
        if factors is not None:
            cross_entropy, kl, gradients = _by_triton(problem, factors, options, with_gradients)
            return cross_entropy, kl, gradients.queries, gradients.keys, _what(backend)
    gradients = zero_gradients(problem) if with_gradients else _empty(q)
    cross_entropy, kl = tiled_loss(problem, gradients if with_gradients else None, options)
    return cross_entropy, kl, gradients.queries, gradients.keys, _what("torch")


distillation = torch.library.custom_op("hedgebench::attention_distillation", run_distillation, mutates_args=())
"""`run_distillation` as an operator."""


@distillation.register_fake
def _shapes(
    q: Tensor, k: Tensor, phi_q: Tensor, phi_k: Tensor, shares: Tensor, padding: Tensor | None, causal: bool,
    eps: float, log_space: bool, tile: int | None, with_gradients: bool, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    del k, shares, padding, causal, eps, log_space, tile, backend
    heads = q.new_empty(q.shape[:2])
    groups, (leading, keys, features) = q.shape[1], phi_k.shape
    gradients = _empty(q)
    if with_gradients:
        gradients = FeatureGradients(q.new_empty(phi_q.shape), q.new_empty(leading, groups, keys, features))
    return heads, torch.empty_like(heads), gradients.queries, gradients.keys, _what("torch")


def _by_triton(
    problem: Problem, factors: tuple[Tensor, Tensor], options: DistillationOptions, with_gradients: bool
) -> tuple[Tensor, Tensor, FeatureGradients]:
    from .launch import distill

    eps = 0.0 if options.log_space else options.eps
    cross_entropy, kl, gradients = distill(problem, factors, options.causal, eps, with_gradients)
    if gradients is None:
        return cross_entropy, kl, _empty(problem.q)
    if options.log_space:
        gradients.queries.mul_(factors[0])
        gradients.keys.mul_(factors[1][:, None])
    return cross_entropy, kl, gradients


def _what(backend: str) -> Tensor:
    """Gives the backend's number, on the CPU, where reading it waits for nothing."""
    return torch.tensor(BACKENDS.index(backend))


def _empty(like: Tensor) -> FeatureGradients:
    return FeatureGradients(like.new_empty(0), like.new_empty(0))
