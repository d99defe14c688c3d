"""Scores of log features pair by pair, for the rare tile whose shifts would lose a row's largest terms.

Sums of exp(log φ(q) + log φ(k)) are matrix products only after a shift per feature. Where a later key of the same tile
towers over what a row sees by more than float32 can hold, these loops, one feature at a time, take their place.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from .triton_features import EMPTY_LOG, IDENTITY


@triton.jit
def _column(x, weight, bias, dims, index, DIM: tl.constexpr, WIDTH: tl.constexpr, MAP: tl.constexpr,
            HAS_BIAS: tl.constexpr):  # fmt: skip
    """Gives column `index` [rows] of y = Wx + b, or of x itself."""
    if MAP == IDENTITY:
        column = tl.sum(tl.where((dims == index)[None, :], x, 0.0), 1)
    else:
        row = tl.load(weight + dims * WIDTH + index, mask=dims < DIM, other=0.0).to(tl.float32)
        column = tl.sum(x * row[None, :], 1)
        if HAS_BIAS:
            column += tl.load(bias + index).to(tl.float32)
    return column


@triton.jit
def highest_log(q, k, q_weight, q_bias, k_weight, k_bias, dims, visible, top, DIM: tl.constexpr, WIDTH: tl.constexpr,
                HALVES: tl.constexpr, MAP: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    """Gives the largest of `top` [rows] and of a row's log φ_f(q) + log φ_f(k) over what it sees."""
    for index in range(WIDTH):
        y_q = _column(q, q_weight, q_bias, dims, index, DIM, WIDTH, MAP, HAS_BIAS)
        y_k = _column(k, k_weight, k_bias, dims, index, DIM, WIDTH, MAP, HAS_BIAS)
        logs = y_q[:, None] + y_k[None, :]
        if HALVES == 2:
            logs = tl.abs(logs)
        top = tl.maximum(top, tl.max(tl.where(visible, logs, EMPTY_LOG), 1))
    return top


@triton.jit
def exact_scores(q, k, q_weight, q_bias, k_weight, k_bias, dims, visible, norm, DIM: tl.constexpr,
                 WIDTH: tl.constexpr, HALVES: tl.constexpr, MAP: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    """Gives Σ_f exp(log φ_f(q) + log φ_f(k) - norm) [rows keys] of what is visible, zero elsewhere."""
    scores = tl.zeros(visible.shape, tl.float32)
    for index in range(WIDTH):
        y_q = _column(q, q_weight, q_bias, dims, index, DIM, WIDTH, MAP, HAS_BIAS)
        y_k = _column(k, k_weight, k_bias, dims, index, DIM, WIDTH, MAP, HAS_BIAS)
        logs = y_q[:, None] + y_k[None, :]
        scores += tl.where(visible, tl.exp(logs - norm[:, None]), 0.0)
        if HALVES == 2:
            scores += tl.where(visible, tl.exp(-logs - norm[:, None]), 0.0)
    return scores


@triton.jit
def exact_gradient(q, k, q_weight, q_bias, k_weight, k_bias, dims, columns, visible, norm, grad,
                   BY_KEY: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, HALVES: tl.constexpr,
                   MAP: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    """Gives the gradient of the rows' (or, BY_KEY, the keys') log features [.. columns], + and - halves joined.

    Args:
        grad: of the scores [rows keys].
    """
    total = tl.zeros((grad.shape[1] if BY_KEY else grad.shape[0], columns.shape[0]), tl.float32)
    for index in range(WIDTH):
        y_q = _column(q, q_weight, q_bias, dims, index, DIM, WIDTH, MAP, HAS_BIAS)
        y_k = _column(k, k_weight, k_bias, dims, index, DIM, WIDTH, MAP, HAS_BIAS)
        logs = y_q[:, None] + y_k[None, :]
        slopes = tl.where(visible, tl.exp(logs - norm[:, None]), 0.0)
        if HALVES == 2:
            slopes -= tl.where(visible, tl.exp(-logs - norm[:, None]), 0.0)
        column = tl.sum(slopes * grad, 0 if BY_KEY else 1)
        total += tl.where((columns == index)[None, :], column[:, None], 0.0)
    return total
