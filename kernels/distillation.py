"""Attention distillation: how far linear attention's rows are from softmax attention's, without any n×m tensor.

The first stage of the Hedgehog paper (arXiv 2402.04347, §3) trains feature maps φ with the soft-label cross-entropy
L_i = -Σ_j a_ij log p_ij of each query row, a = softmax(q·k·scale) and p_ij = φ(q_i)·φ(k_j) / Σ_m φ(q_i)·φ(k_m). Its
least value is the entropy of the teacher's row, so the Kullback-Leibler divergence is given too.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .state import EMPTY_LOG, accumulator_dtype
from .sums import EPS, query_groups
from .tiled_scores import FeatureGradients, TiledScores, hide_later, later_keys, tiled_scores

FLOOR = 1e-12
"""Least probability whose logarithm is taken, as in the authors' later code; an entry's loss is at most 27.6 nats."""

TILE_ELEMENTS = 1 << 22
"""Largest [l g tile m] tensor held at once, unless one kv head's is larger; about six of them live together."""

CPU_TILE_ELEMENTS = 1 << 19
"""The same on a CPU, where a tile gains by staying in the cache: forward and backward took 249 ms against 300 with
`TILE_ELEMENTS` (B=1, H=8, 2048 tokens, d=64, f=128, float32, CPU time of one thread, best of 3, torch 2.13)."""

MINIMUM_TILE = 64
"""Query rows in a tile at least, so that matrix products stay large; fewer heads are then handled at once."""


@dataclass(frozen=True)
class DistillationLoss:
    """What attention distillation minimises, and how far it is from its least value.

    Attributes:
        cross_entropy: nats, the mean over the real query rows of all sequences, of each query head; differentiable in
            the student's features.
        kl: `cross_entropy` less the mean entropy of the teacher's rows: nats, 0 at the optimum, without a gradient.
        rows: how many query rows the means are taken over; 0 gives a loss of 0.
    """

    cross_entropy: Float[Tensor, " h"]
    kl: Float[Tensor, " h"]
    rows: Int[Tensor, ""]


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
) -> DistillationLoss:
    """Gives the loss of each query head, computed with its gradients tile by tile: memory is linear in tokens.

    A probability below `FLOOR` counts as `FLOOR`, in log space too, so that a row of zeros (ReLU maps) or a key whose
    score is zero has a finite loss. The gradient is that of this definition: such an entry pulls at nothing itself, and
    a row with no other entry has no gradient. Everything is computed in float32 at least, outside autocast.

    Args:
        q: the teacher's queries; like `k` they get no gradient.
        k: the teacher's keys; query head i uses kv head i // (h / hk).
        phi_q: features of the student's queries, or their logarithms.
        phi_k: features of the student's keys, or their logarithms.
        causal: a query sees the keys up to its own; with m > n the queries are the last n tokens.
        key_padding_mask: true where a key is a real token. As the queries are the last n tokens, query rows of
            padding are left out of the mean.
        scale: factor on q·k; 1/√d unless given.
        log_space: `phi_q` and `phi_k` are logarithms.
        eps: added to the student's row sum, outside log space.
        tile: query rows handled at once; unless given, as many as `TILE_ELEMENTS` allows.

    Raises:
        ValueError: heads that do not divide, a teacher and a student of different heads, more queries than keys in a
            causal or masked call, or a tile below 1 row.
    """
    groups = query_groups(phi_q, phi_k, causal)
    _check(q, k, phi_q, phi_k, key_padding_mask, tile)
    batch, heads, queries, _ = phi_q.shape
    real = _real_rows(key_padding_mask, batch, queries, phi_q.device)
    rows = real.sum()
    dtype = accumulator_dtype(q, k, phi_q, phi_k)
    wanted = torch.is_grad_enabled() and (phi_q.requires_grad or phi_k.requires_grad)
    with torch.no_grad(), torch.autocast(phi_q.device.type, enabled=False):
        problem = _Problem(
            q=_by_kv_head(q.to(dtype) * (q.shape[-1] ** -0.5 if scale is None else scale), groups, real),
            k=k.to(dtype).flatten(0, 1),
            phi_q=_by_kv_head(phi_q.to(dtype), groups, real),
            phi_k=_masked(phi_k.to(dtype), key_padding_mask, EMPTY_LOG if log_space else 0.0).flatten(0, 1),
            shares=(real.to(dtype) / rows.clamp_min(1)).repeat_interleave(phi_k.shape[1], 0),
            padding=None if key_padding_mask is None else (~key_padding_mask).repeat_interleave(phi_k.shape[1], 0),
        )
        gradients = _zero_gradients(problem) if wanted else None
        cross_entropy, kl = _loss(problem, gradients, _Options(causal, eps, log_space, tile))
        cross_entropy, kl = cross_entropy.view(batch, heads).sum(0), kl.view(batch, heads).sum(0)
    if gradients is not None:
        grad_q = gradients.queries.view(batch, heads, queries, -1)
        grad_k = _masked(torch.unflatten(gradients.keys.flatten(0, 1), 0, (batch, -1)), key_padding_mask, 0.0)
        cross_entropy = _WithGradients.apply(phi_q, phi_k, cross_entropy, grad_q, grad_k)  # type: ignore[no-untyped-call]
    return DistillationLoss(cross_entropy, kl, rows)


class _Options(NamedTuple):
    causal: bool
    eps: float
    log_space: bool
    tile: int | None


class _Problem(NamedTuple):
    """What the loss is computed from; leading axis l: batch and kv head together.

    Attributes:
        q: [l g n d], with the scale.
        k: [l m d].
        phi_q: [l g n f].
        phi_k: [l m f], masked.
        shares: [l n], a row's part in the mean: 1 / rows, or 0 for padding.
        padding: [l m], true where a key is hidden from all rows, or None.
    """

    q: Tensor
    k: Tensor
    phi_q: Tensor
    phi_k: Tensor
    shares: Tensor
    padding: Tensor | None

    def heads(self, which: slice) -> "_Problem":
        """Gives the part of some batch entries and kv heads."""
        q, k, phi_q, phi_k, shares = (tensor[which] for tensor in self[:5])
        return _Problem(q, k, phi_q, phi_k, shares, None if self.padding is None else self.padding[which])


def _tile_sizes(problem: _Problem, tile: int | None) -> tuple[int, int]:
    """Gives how many query rows, and how many of the leading axis, are handled at once."""
    heads, groups, queries, _ = problem.q.shape
    row_elements = max(1, groups * max(problem.k.shape[1], problem.phi_k.shape[2]))
    limit = CPU_TILE_ELEMENTS if problem.q.device.type == "cpu" else TILE_ELEMENTS
    if tile is None:
        tile = max(1, min(queries, max(limit // (row_elements * max(1, heads)), MINIMUM_TILE)))
    return tile, max(1, limit // (row_elements * tile))


def _loss(problem: _Problem, gradients: FeatureGradients | None, options: _Options) -> tuple[Tensor, Tensor]:
    """Gives cross-entropy and divergence [l g], and adds up gradients where they are wanted."""
    queries = problem.q.shape[2]
    tile, at_once = _tile_sizes(problem, options.tile)
    cross_entropy = problem.q.new_zeros(*problem.q.shape[:2])
    kl = torch.zeros_like(cross_entropy)
    for first in range(0, problem.q.shape[0], at_once):
        heads = slice(first, first + at_once)
        part = problem.heads(heads)
        part_gradients = None if gradients is None else FeatureGradients(*(tensor[heads] for tensor in gradients))
        scores = tiled_scores(
            part.phi_q, part.phi_k, causal=options.causal, eps=options.eps, log_space=options.log_space
        )
        for start in range(0, queries, tile):
            rows = slice(start, min(start + tile, queries))
            crossed, diverged = _tile_loss(part, scores, part_gradients, rows, options.causal)
            cross_entropy[heads] += crossed
            kl[heads] += diverged
        if part_gradients is not None:
            scores.finish(part_gradients)
    return cross_entropy, kl


def _tile_loss(
    problem: _Problem, scores: TiledScores, gradients: FeatureGradients | None, rows: slice, causal: bool
) -> tuple[Tensor, Tensor]:
    """Gives one tile's part in cross-entropy and divergence [l g].

    With u_ij = 1 where p_ij is not below the floor, L_i = -Σ_j a_ij u_ij (log s_ij - log S_i) + a constant, so
    S_i ∂L_i/∂s_ij = Σ_m a_im u_im - a_ij u_ij / p_ij; S_i includes eps.
    """
    groups = problem.q.shape[1]
    weights, entropy = _teacher(problem, rows, causal)
    probabilities = scores.probabilities(rows.start, rows.stop)
    shares = problem.shares[:, None, rows].expand(-1, groups, -1)
    floored = probabilities < FLOOR
    probabilities = probabilities.clamp_min_(FLOOR)
    crossed = -(probabilities.log().mul_(weights)).sum(-1)
    if gradients is not None:
        pulled = weights.masked_fill_(floored, 0.0)
        mass = pulled.sum(-1, keepdim=True)
        slopes = pulled.div_(probabilities).sub_(mass).mul_(-shares.flatten(1)[..., None])
        scores.add_gradient(slopes, gradients)
    crossed, entropy = torch.unflatten(crossed, 1, (groups, -1)), torch.unflatten(entropy, 1, (groups, -1))
    return (crossed * shares).sum(-1), ((crossed - entropy) * shares).sum(-1)


def _teacher(problem: _Problem, rows: slice, causal: bool) -> tuple[Tensor, Tensor]:
    """Gives softmax attention's rows [l gt s] over the keys up to the last that the tile sees, and their entropies."""
    queries, keys = problem.q[:, :, rows], problem.k
    seen = keys.shape[1] - problem.q.shape[2] + rows.stop if causal else keys.shape[1]
    logits = queries.flatten(1, 2) @ keys[:, :seen].mT
    # Half of the least number, so that taking a row's maximum off does not make it -inf, which times 0 is NaN.
    lowest = torch.finfo(logits.dtype).min / 2
    if causal:
        hide_later(logits, queries.shape[1], later_keys(queries.shape[2], logits.device), lowest)
    if problem.padding is not None:
        logits.masked_fill_(problem.padding[:, None, :seen], lowest)
    logits.sub_(logits.amax(-1, keepdim=True))
    weights = logits.exp()
    total = weights.sum(-1, keepdim=True)
    weights.div_(total)
    return weights, total.squeeze(-1).log() - logits.mul_(weights).sum(-1)


class _WithGradients(torch.autograd.Function):
    """Gives a loss [h] as it is, with gradients known beforehand: of φ(q), and of φ(k) through each query head."""

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


def _by_kv_head(tensor: Tensor, groups: int, real: Tensor) -> Tensor:
    """Gives [l g n f] of [b h n f], zero where a row is padding, whatever stood there."""
    return torch.unflatten(_masked(tensor, real, 0.0), 1, (-1, groups)).flatten(0, 1)


def _masked(tensor: Tensor, real: Tensor | None, value: float) -> Tensor:
    return tensor if real is None else tensor.masked_fill(~real[:, None, :, None], value)


def _zero_gradients(problem: _Problem) -> FeatureGradients:
    heads, groups = problem.phi_q.shape[:2]
    return FeatureGradients(
        torch.zeros_like(problem.phi_q, memory_format=torch.contiguous_format),
        problem.phi_k.new_zeros(heads, groups, *problem.phi_k.shape[1:]),
    )
