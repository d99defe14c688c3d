"""Attention distillation: the cross-entropy of linear attention's rows to softmax attention's, without an n×m tensor.

The first stage of the Hedgehog paper (arXiv 2402.04347, §4) trains feature maps φ with the soft-label cross-entropy
L_i = -Σ_j a_ij log p_ij of each query row, where a = softmax(q·k·scale) and p_ij = φ(q_i)·φ(k_j) / Σ_m φ(q_i)·φ(k_m).
Its minimum is the entropy of the teacher's row, so the Kullback-Leibler divergence, whose minimum is 0, is given too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..choice import KernelChoice
from ..fused.checks import check_devices, check_mask, check_shape
from ..linear.sums import EPS, query_groups
from ..maps.token_maps import hide_padding
from ..state import EMPTY_LOG, accumulator_dtype
from ..triton.backend import chooses_triton, obstacles
from .call import DistillationCall
from .op import RAN, distillation

MAX_DIM = 256
"""Largest dimension of the teacher's heads for the kernels."""


@dataclass(frozen=True)
class DistillationLoss:
    """The loss of attention distillation for each query head, in nats.

    Attributes:
        cross_entropy: mean over the real query rows of all sequences; differentiable in the student's features.
        kl: `cross_entropy` minus the mean entropy of the teacher's rows; 0 at the optimum, without a gradient.
        rows: number of query rows in the means; with 0 rows the loss is 0.
        ran: index in `op.RAN` of the backend that ran; a tensor on the CPU.
    """

    cross_entropy: Float[Tensor, " h"]
    kl: Float[Tensor, " h"]
    rows: Int[Tensor, ""]
    ran: Int[Tensor, ""]

    @property
    def kernel(self) -> KernelChoice:
        """The form and the backend that ran."""
        return KernelChoice("tiled", RAN[int(self.ran)])


def attention_distillation_loss(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk m d"],
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    scale: float | None = None,
    log_space: bool = False,
    eps: float = EPS,
    tile: int | None = None,
    backend: str = "auto",
) -> DistillationLoss:
    """The loss of each query head, computed with its gradients tile by tile: memory is linear in tokens.

    Probabilities below `tiles.FLOOR` count as `FLOOR` and have no gradient, in log space too, so the loss is finite for
    features of zero, which ReLU maps give. Everything is computed in float32 at least, outside autocast. The gradients
    cannot be differentiated again.

    Args:
        q: the teacher's queries; neither they nor the keys get a gradient.
        k: the teacher's keys; query head i uses kv head i // (h / hk).
        phi_q: features of the student's queries, or their logarithms.
        phi_k: features of the student's keys, or their logarithms.
        causal: a query sees the keys up to its own; with m > n the queries are the last n tokens.
        key_padding_mask: true where a key is a real token; queries that are padding are left out of the mean.
        scale: factor on q·k; 1/√d unless given.
        log_space: `phi_q` and `phi_k` are logarithms.
        eps: added to the student's row sum, outside log space.
        tile: query rows that torch handles at once; by default as many as `tiles.TILE_ELEMENTS` allows.
        backend: "auto" (Triton for float32 on CUDA, else torch), "triton" or "torch"; steep log features run in torch.

    Raises:
        ValueError: kv heads that do not divide the query heads, tensors that do not fit each other or lie on more than
            one device, a mask that is not bool, more queries than keys in a causal or masked call, a tile below 1 row,
            an unknown backend, or "triton" where it cannot run.
    """
    query_groups(phi_q, phi_k, causal)
    _check(q, k, phi_q, phi_k, key_padding_mask, tile)
    batch, heads, queries, _ = phi_q.shape
    real = _real_rows(key_padding_mask, batch, queries, phi_q.device)
    dtype = accumulator_dtype(q, k, phi_q, phi_k)
    wanted = torch.is_grad_enabled() and (phi_q.requires_grad or phi_k.requires_grad)
    with torch.no_grad(), torch.autocast(phi_q.device.type, enabled=False):
        q, k, phi_q_value, phi_k_value = (x.to(dtype) for x in (q, k, phi_q, phi_k))
        q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
        phi_k_value = hide_padding(phi_k_value, key_padding_mask, EMPTY_LOG if log_space else 0.0)
        call = DistillationCall(
            **_by_kv_head(q, k, phi_q_value, phi_k_value, real, key_padding_mask),
            causal=causal, eps=eps, log_space=log_space, tile=tile, with_gradients=wanted,
            backend="triton" if chooses_triton(backend, lambda: "; ".join(_obstacles(q))) else "torch",
        )  # fmt: skip
        cross_entropy, kl, grad_q, grad_k, ran = distillation(*call.flatten())
        cross_entropy, kl = cross_entropy.view(batch, heads).sum(0), kl.view(batch, heads).sum(0)
    if wanted:
        grad_q = grad_q.view(batch, heads, queries, -1)
        grad_k = hide_padding(torch.unflatten(grad_k.flatten(0, 1), 0, (batch, -1)), key_padding_mask)
        cross_entropy = _WithGradients.apply(phi_q, phi_k, cross_entropy, grad_q, grad_k)  # type: ignore[no-untyped-call]
    return DistillationLoss(cross_entropy, kl, real.sum(), ran)


def _by_kv_head(
    q: Tensor, k: Tensor, phi_q: Tensor, phi_k: Tensor, real: Tensor, mask: Tensor | None
) -> dict[str, Any]:
    """The tensors of a `DistillationCall`: batch and kv heads in one leading axis, query rows of padding zero."""
    kv_heads = k.shape[1]
    shares = real.to(q.dtype) / real.sum().clamp_min(1)
    queries = (torch.unflatten(hide_padding(x, real), 1, (kv_heads, -1)).flatten(0, 1) for x in (q, phi_q))
    return {
        **dict(zip(("q", "phi_q"), queries, strict=True)),
        "k": k.flatten(0, 1),
        "phi_k": phi_k.flatten(0, 1),
        "shares": shares.repeat_interleave(kv_heads, 0),
        "padding": None if mask is None else (~mask).repeat_interleave(kv_heads, 0),
    }


def _obstacles(q: Tensor) -> Iterator[str]:
    yield from obstacles(q, (torch.float32,))
    if q.shape[-1] > MAX_DIM:
        yield f"heads of {q.shape[-1]} dimensions, above {MAX_DIM}"


class _WithGradients(torch.autograd.Function):
    """Returns a loss [h] whose gradients are given: those of φ(q), and those of φ(k) from each query head."""

    @staticmethod
    def forward(ctx: Any, phi_q: Tensor, phi_k: Tensor, loss: Tensor, grad_q: Tensor, grad_k: Tensor) -> Tensor:
        ctx.save_for_backward(grad_q, grad_k)
        ctx.types, ctx.kv_heads = (phi_q.dtype, phi_k.dtype), phi_k.shape[1]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        grad_q, grad_k = (gradient * upstream[0][:, None, None] for gradient in ctx.saved_tensors)
        grad_k = torch.unflatten(grad_k, 1, (ctx.kv_heads, -1)).sum(2)
        return grad_q.to(ctx.types[0]), grad_k.to(ctx.types[1]), None, None, None


def _check(q: Tensor, k: Tensor, phi_q: Tensor, phi_k: Tensor, mask: Tensor | None, tile: int | None) -> None:
    for name, teacher, student in (("queries", q, phi_q), ("keys", k, phi_k)):
        if teacher.shape[:3] != student.shape[:3]:
            raise ValueError(
                f"teacher and student need {name} of the same batch, heads and tokens, got {list(teacher.shape[:3])} "
                f"and {list(student.shape[:3])}"
            )
    check_shape("k", k, (q.shape[0], k.shape[1], k.shape[2], q.shape[3]))
    check_shape("phi_k", phi_k, (*k.shape[:3], phi_q.shape[3]))
    check_mask(mask, k.shape[0], k.shape[2])
    check_devices(q, k, phi_q, phi_k, mask)
    if mask is not None and phi_q.shape[2] > phi_k.shape[2]:
        raise ValueError(
            f"key_padding_mask covers {phi_k.shape[2]} keys and cannot say which of {phi_q.shape[2]} queries are real; "
            "pass at most as many queries as keys"
        )
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be at least 1 query row, got {tile}; leave it out for the default")


def _real_rows(mask: Tensor | None, batch: int, queries: int, device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(batch, queries, dtype=torch.bool, device=device)
    return mask[:, mask.shape[1] - queries :]
