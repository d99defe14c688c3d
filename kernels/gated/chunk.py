"""The chunk form of gated and delta-rule attention: products inside chunks, and a state between them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rule import GatedRule, Ran, by_key_head

MAX_CHUNK = 64
"""Most tokens of a chunk."""


def chunk(rule: GatedRule, state: Tensor | None, return_state: bool) -> Ran:
    """Products inside chunks, and a state between them.

    Decays are scalars or one for each channel, sums are plain or by the delta rule. Inside a chunk the writes of the
    delta rule solve a triangular system (Yang et al. 2024, arXiv:2406.06484, section 3.2), with decays as in gated
    DeltaNet (arXiv:2412.06464, section 3.3) and Kimi Linear (arXiv:2510.26692, section 3). A state is neither read
    where nothing came before nor computed where nothing follows.
    """
    tokens, size = rule.q.shape[-2], _chunk_size(rule)
    fill = -tokens % size

    def split(x: Tensor) -> Tensor:
        filled = F.pad(x, (0, 0, 0, fill)) if fill else x.contiguous()
        return torch.unflatten(filled, -2, (-1, size))  # b hk g chunks size d

    q, k, v, decay = (split(x) for x in by_key_head(rule)[:4])
    beta = None if rule.beta is None else split(rule.beta[:, :, None, :, None])
    written = None if beta is None else beta * k
    scores, ties, since_start, until_end = decayed_products(q, k, written, decay)
    reads_state = state is not None or tokens > size
    reads: tuple[Tensor, ...] = ()
    if beta is not None and written is not None and ties is not None:
        wanted = [beta * v, written * since_start.exp()] if reads_state else [beta * v]
        solved = torch.linalg.solve_triangular(ties, torch.cat(wanted, -1), upper=False, unitriangular=True)
        v, *read = solved.split([x.shape[-1] for x in wanted], -1)
        reads = read[0].unbind(3) if read else ()
    queries = (q * since_start.exp()).unbind(3) if reads_state else ()
    keys = (k * until_end.exp()).mT.unbind(3) if reads_state or return_state else ()
    kept = since_start[..., -1:, :].mT.exp().unbind(3)
    sums = None if state is None else state[:, :, None]
    outputs = []
    for i, (score, write) in enumerate(zip(scores.unbind(3), v.unbind(3), strict=True)):
        write = write - reads[i] @ sums if reads and sums is not None else write
        outputs.append(score @ write if sums is None else score @ write + queries[i] @ sums)
        if return_state or i < len(queries) - 1:
            sums = keys[i] @ write if sums is None else kept[i] * sums + keys[i] @ write
    output = torch.cat(outputs, -2)[..., :tokens, :]
    return output.flatten(1, 2), sums.squeeze(2) if return_state and sums is not None else None


def _chunk_size(rule: GatedRule) -> int:
    """Tokens of a chunk: about as many as a head is wide, and a power of two for decays by channel.

    With heads of 64 over 64 tokens, one chunk took half the time of two; with heads of 32 over 128 tokens, chunks of 64
    took 1.0 to 1.5 times as long as chunks of 32 (float32, CPU time of one thread, forward and backward, torch 2.13).
    """
    tokens, most = rule.q.shape[-2], MAX_CHUNK if rule.k.shape[-1] >= MAX_CHUNK else MAX_CHUNK // 2
    if rule.log_decay.shape[-1] > 1:
        return min(most, 1 << (tokens - 1).bit_length())
    return -(-tokens // -(-tokens // most))


def decayed_products(
    q: Float[Tensor, "b hk g m n d"],
    k: Float[Tensor, "b hk 1 m n d"],
    written: Float[Tensor, "b hk 1 m n d"] | None,
    decay: Float[Tensor, "b hk 1 m n c"],
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Products of tokens of a chunk over channels, each decayed from token j to i, for keys j up to i.

    Args:
        q: queries.
        k: keys.
        written: keys times the strength of their writes; None without the delta rule.
        decay: logarithms of the decays; c is d, or 1 for one decay of all channels. With d the number of tokens n is a
            power of two.

    Returns:
        q_i·k_j `[b hk g m n n]`, 0 at later keys; written_i·k_j `[b hk 1 m n n]`, right at keys before i alone; and the
        logarithms of the decays from the start up to each token, and after it up to the end.
    """
    size = q.shape[-2]
    if decay.shape[-1] > 1:
        rows = q if written is None else torch.cat([q, written], 2)
        products, since_start, until_end = _ByChannel.apply(rows, k, decay)  # type: ignore[no-untyped-call]
        scores, ties = products.split([q.shape[2], products.shape[2] - q.shape[2]], 2)
        return scores, None if written is None else ties, since_start, until_end
    token = torch.arange(size, device=q.device)
    between = (token[:, None, None] <= token[:, None]) & (token[:, None, None] > token)  # whether l is in j + 1 .. i
    decays = torch.unflatten(decay[..., 0] @ between.flatten(1).to(decay.dtype), -1, (size, size)).exp()
    scores = (q @ k.mT * decays).tril()
    ties = None if written is None else written @ k.mT * decays
    until_end = F.pad(decay[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)
    return scores, ties, decay.cumsum(-2), until_end


class _ByChannel(torch.autograd.Function):
    """Products with a decay of each channel, over squares of tokens that double in size.

    Products across the middle of a square factor there into two matrices whose exponents are at most 0: those of later
    tokens since the middle, and of earlier tokens up to it. The sums double with the squares and end as those of the
    chunk. It differentiates itself, as autograd would write zeros of full size for each view. Inputs are contiguous.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The products, 0 at later keys, and the sums of decays up to each token and after it."""
        products = q.new_zeros(*q.shape[:-1], q.shape[-2])
        products.diagonal(dim1=-2, dim2=-1).copy_((q * k).sum(-1))
        up_to, after = decay.clone(), torch.zeros_like(decay)
        factors = []
        for half in _halves(q):
            (first, second), early_after = _parts(up_to, half), _parts(after, half)[0]
            later, earlier = second.exp(), early_after.exp()
            across = (_parts(q, half)[1] * later) @ (_parts(k, half)[0] * earlier).mT
            view = _across(products, half)
            view.copy_(across.view(view.shape))
            factors += [later, earlier]
            early_after += second[..., -1:, :]
            second += first[..., -1:, :]
        ctx.save_for_backward(q, k, *factors)
        return products, up_to, after

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor, grad_up_to: Tensor, grad_after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and decay, from the largest squares to single tokens."""
        q, k, *factors = ctx.saved_tensors
        grad = grad.contiguous()
        own = grad.diagonal(dim1=-2, dim2=-1)[..., None]
        grad_q, grad_k = own * k, _over_groups(own * q)
        up_to, after = (x.clone(memory_format=torch.contiguous_format) for x in (grad_up_to, grad_after))
        for half in reversed(_halves(q)):
            earlier, later = factors.pop(), factors.pop()
            (first, second), early_after = _parts(up_to, half), _parts(after, half)[0]
            first[..., -1, :] += second.sum(-2)
            second[..., -1, :] += early_after.sum(-2)
            late, early = _parts(q, half)[1] * later, _parts(k, half)[0] * earlier
            across = _across(grad, half).flatten(3, 4)
            grad_late, grad_early = _weighted(across, early), _over_groups(_weighted(across.mT, late))
            _parts(grad_q, half)[1].addcmul_(grad_late, later)
            _parts(grad_k, half)[0].addcmul_(grad_early, earlier)
            for group in range(q.shape[2]):
                second[:, :, 0].addcmul_(grad_late[:, :, group], late[:, :, group])
            early_after.addcmul_(grad_early, early)
        return grad_q, grad_k, up_to


def _halves(q: Tensor) -> list[int]:
    """Half the size of each square, from squares of two tokens to the chunk."""
    return [1 << i for i in range(q.shape[-2].bit_length() - 1)]


def _parts(x: Tensor, half: int) -> tuple[Tensor, ...]:
    """Views of the first and the second half of the tokens of each square, `[b hk g squares half d]`."""
    return x.view(*x.shape[:3], -1, 2, half, x.shape[-1]).unbind(4)


def _across(products: Tensor, half: int) -> Tensor:
    """A view of the products of the second half of each square with the first, `[b hk g m squares half half]`."""
    squares = products.shape[-1] // (2 * half)
    blocks = torch.unflatten(torch.unflatten(products, -1, (squares, 2, half)), -4, (squares, 2, half))
    return blocks.diagonal(dim1=-6, dim2=-3)[..., 1, :, 0, :, :].movedim(-1, -3)


def _weighted(weights: Float[Tensor, "*b n m"], rows: Float[Tensor, "*#b m d"]) -> Float[Tensor, "*b n d"]:
    """Weighted sums of rows; few rows are added as they are, since many tiny matrix products are slow on a CPU."""
    return weights @ rows if rows.shape[-2] > 2 else (weights[..., None] * rows[..., None, :, :]).sum(-2)


def _over_groups(x: Tensor) -> Tensor:
    """The sum over the query groups of a key head."""
    return x if x.shape[2] == 1 else x.sum(2, keepdim=True)
