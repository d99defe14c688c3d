"""Scores of log features pair by pair, for tokens whose log features are too large for sums without a shift.

`q_logs` and `k_logs` are the log features [rows columns] and [keys columns] of the + half; those of the - half are
their negatives.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def _pair_logs(q_logs, k_logs, columns, index):
    """The logarithms log φ_f(q) + log φ_f(k) [rows keys] of the feature f in column `index`."""
    chosen = (columns == index)[None, :]
    of_queries, of_keys = tl.sum(tl.where(chosen, q_logs, 0.0), 1), tl.sum(tl.where(chosen, k_logs, 0.0), 1)
    return of_queries[:, None] + of_keys[None, :]


@triton.jit
def highest_log(q_logs, k_logs, columns, visible, top, C: tl.constexpr):
    """The maximum of `top` [rows] and of each row's log φ_f(q) + log φ_f(k) over features and visible keys."""
    for index in range(C.WIDTH):
        logs = _pair_logs(q_logs, k_logs, columns, index)
        if C.HALVES == 2:
            logs = tl.abs(logs)
        top = tl.maximum(top, tl.max(tl.where(visible, logs, -1e30), 1))
    return top


@triton.jit
def exact_scores(q_logs, k_logs, columns, visible, norm, C: tl.constexpr):
    """The scores Σ_f exp(log φ_f(q) + log φ_f(k) - norm) [rows keys] at visible keys, zero elsewhere."""
    scores = tl.zeros(visible.shape, tl.float32)
    for index in range(C.WIDTH):
        logs = _pair_logs(q_logs, k_logs, columns, index)
        scores += tl.exp(tl.where(visible, logs - norm[:, None], -1e30))
        if C.HALVES == 2:
            scores += tl.exp(tl.where(visible, -logs - norm[:, None], -1e30))
    return scores


@triton.jit
def exact_gradient(q_logs, k_logs, columns, visible, norm, grad, BY_KEY: tl.constexpr, C: tl.constexpr):
    """The gradient of y [.. columns], both halves together, of the rows or, BY_KEY, of the keys.

    Args:
        grad: gradient of the scores [rows keys].
    """
    total = tl.zeros((grad.shape[1] if BY_KEY else grad.shape[0], columns.shape[0]), tl.float32)
    for index in range(C.WIDTH):
        logs = _pair_logs(q_logs, k_logs, columns, index)
        slopes = tl.exp(tl.where(visible, logs - norm[:, None], -1e30))
        if C.HALVES == 2:
            slopes -= tl.exp(tl.where(visible, -logs - norm[:, None], -1e30))
        column = tl.sum(slopes * grad, 0 if BY_KEY else 1)
        total += tl.where((columns == index)[None, :], column[:, None], 0.0)
    return total
