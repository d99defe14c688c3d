"""The loss of attention distillation and its gradients in plain torch, one tile of query rows at a time.

`op.distillation` runs it without a GPU, and tests compare the kernels with it.
"""

import torch
from torch import Tensor

from .call import DistillationCall
from .tiled_scores import FactoredScores, FeatureGradients, SteepScores, hide_later, later_keys, tiled_scores

FLOOR = 1e-12
"""Smallest probability whose logarithm is taken, as in the authors' later code; -log of it is 27.6 nats."""

TILE_ELEMENTS = 1 << 22
"""Largest number of elements of a [l g tile m] tensor, unless that of one kv head is larger; about six such tensors
exist at once."""

CPU_TILE_ELEMENTS = 1 << 19
"""`TILE_ELEMENTS` on a CPU, where a smaller tile stays in cache: forward and backward took 249 ms, against 300 ms with
`TILE_ELEMENTS` (B=1, H=8, 2048 tokens, d=64, f=128, float32, CPU time of one thread, best of 3, torch 2.13)."""

MINIMUM_TILE = 64
"""Fewest query rows in a tile, so that matrix products stay large; fewer heads are handled at once instead."""


def _tile_sizes(call: DistillationCall) -> tuple[int, int]:
    """The numbers of query rows, and of entries of the leading axis, that are handled at once."""
    heads, groups, queries, _ = call.q.shape
    row_elements = max(1, groups * max(call.k.shape[1], call.phi_k.shape[2]))
    limit = CPU_TILE_ELEMENTS if call.q.device.type == "cpu" else TILE_ELEMENTS
    tile = call.tile
    if tile is None:
        tile = max(1, min(queries, max(limit // (row_elements * max(1, heads)), MINIMUM_TILE)))
    return tile, max(1, limit // (row_elements * tile))


def tiled_loss(call: DistillationCall, gradients: FeatureGradients | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy and KL divergence [l g]; adds the gradients of the features to `gradients` if it is not None."""
    queries = call.q.shape[2]
    tile, at_once = _tile_sizes(call)
    cross_entropy = call.q.new_zeros(*call.q.shape[:2])
    kl = torch.zeros_like(cross_entropy)
    for first in range(0, call.q.shape[0], at_once):
        heads = slice(first, first + at_once)
        part = call.heads(heads)
        part_gradients = None if gradients is None else FeatureGradients(*(tensor[heads] for tensor in gradients))
        scores = tiled_scores(part.phi_q, part.phi_k, causal=call.causal, eps=call.eps, log_space=call.log_space)
        for start in range(0, queries, tile):
            crossed, diverged = _tile_loss(part, scores, part_gradients, slice(start, min(start + tile, queries)))
            cross_entropy[heads] += crossed
            kl[heads] += diverged
        if part_gradients is not None:
            scores.finish(part_gradients)
    return cross_entropy, kl


def _tile_loss(
    call: DistillationCall, scores: FactoredScores | SteepScores, gradients: FeatureGradients | None, rows: slice
) -> tuple[Tensor, Tensor]:
    """The part of one tile in cross-entropy and KL divergence [l g].

    With u_ij = 1 where p_ij is not below the floor, L_i = -Σ_j a_ij u_ij (log s_ij - log S_i) + a constant, so
    S_i ∂L_i/∂s_ij = Σ_m a_im u_im - a_ij u_ij / p_ij; S_i includes eps.
    """
    groups = call.q.shape[1]
    weights, entropy = _teacher(call, rows)
    probabilities = scores.probabilities(rows.start, rows.stop)
    shares = call.shares[:, None, rows].expand(-1, groups, -1)
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


def _teacher(call: DistillationCall, rows: slice) -> tuple[Tensor, Tensor]:
    """The rows of softmax attention [l gt s], over the keys up to the last that the tile sees, and their entropies."""
    queries, keys = call.q[:, :, rows], call.k
    seen = keys.shape[1] - call.q.shape[2] + rows.stop if call.causal else keys.shape[1]
    logits = queries.flatten(1, 2) @ keys[:, :seen].mT
    # Half of the lowest number: minus a row's maximum it does not become -inf, which times a weight of 0 is NaN.
    lowest = torch.finfo(logits.dtype).min / 2
    if call.causal:
        hide_later(logits, queries.shape[1], later_keys(queries.shape[2], logits.device), lowest)
    if call.padding is not None:
        logits.masked_fill_(call.padding[:, None, :seen], lowest)
    logits.sub_(logits.amax(-1, keepdim=True))
    weights = logits.exp()
    total = weights.sum(-1, keepdim=True)
    weights.div_(total)
    return weights, total.squeeze(-1).log() - logits.mul_(weights).sum(-1)
