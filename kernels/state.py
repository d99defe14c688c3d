"""The state of linear attention: sums over the keys seen so far."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EMPTY_LOG = -1e30
"""Stands for log 0 where a feature has seen no key: finite, so that the difference of two of them is not NaN."""


@dataclass(frozen=True)
class LinearState:
    """Sums over the keys seen so far; their size does not depend on the number of keys.

    In log space the true sums are `kv` and `k` times exp(log_scale). The log_scale of a feature is its largest value in
    any key so far, so `kv` and `k` neither overflow nor vanish. It cancels, so no gradient flows through it.

    Attributes:
        kv: Σ φ(k_j) v_jᵀ.
        k: Σ φ(k_j), for the normaliser.
        log_scale: in log space the running maximum per feature (`EMPTY_LOG` before the first key), else None.
    """

    kv: Float[Tensor, "b hk f dv"]
    k: Float[Tensor, "b hk f"]
    log_scale: Float[Tensor, "b hk f"] | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensors, in bytes."""
        return sum(x.nbytes for x in (self.kv, self.k, self.log_scale) if x is not None)


def accumulator_dtype(*tensors: Tensor) -> torch.dtype:
    """The type that sums are held in: float32, or float64 if any of the tensors is float64."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def empty_state(
    phi_k: Float[Tensor, "b hk _ f"], v: Float[Tensor, "b hk _ dv"], *, log_space: bool = False
) -> LinearState:
    """The state before the first key: sums of zero, for keys and values of these sizes, types and device."""
    batch, heads, _, features = phi_k.shape
    dtype = accumulator_dtype(phi_k, v)
    kv = torch.zeros(batch, heads, features, v.shape[-1], dtype=dtype, device=v.device)
    k = torch.zeros(batch, heads, features, dtype=dtype, device=v.device)
    return LinearState(kv, k, torch.full_like(k, EMPTY_LOG) if log_space else None)
