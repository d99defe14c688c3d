"""Triton kernels of attention distillation: the loss of every row, and its gradients, one tile of scores at a time.

For a query row, a_j = exp(z_j - L) are the teacher's weights with z = q·k, and p_j = s_j / S the student's with
s_j = φ(q)·φ(k_j):

    loss = -Σ_j a_j log max(p_j, floor),   S ∂loss/∂s_j = m - a_j u_j / p_j,   u_j = [p_j >= floor],  m = Σ_j a_j u_j

`distill_rows` computes L, S and m of each row; the gradient kernels compute a tile's weights again from them. Leading
axes: l, batch and kv head together, and g, the query heads of a kv head. Features are plain and not negative.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from ..triton.features import EMPTY_LOG, load_tile, store_tile


@triton.jit
def _scores(q, k, phi_q, phi_k, padding, rows, key_rows, queries, keys, DIM: tl.constexpr, FEATURES: tl.constexpr,
            CAUSAL: tl.constexpr, HAS_PADDING: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """The teacher's logits, the student's scores (zero where hidden) and the mask of visible keys, all [rows keys]."""
    real = key_rows < keys
    if HAS_PADDING:
        real &= tl.load(padding + key_rows, mask=real, other=1) == 0
    visible = (rows < queries)[:, None] & real[None, :]
    if CAUSAL:
        visible &= (rows + (keys - queries))[:, None] >= key_rows[None, :]
    dims = tl.arange(0, BD)
    x = load_tile(q, rows, dims, DIM, queries, DIM, tl.float32)
    y = load_tile(k, key_rows, dims, DIM, keys, DIM, tl.float32)
    logits = tl.dot(x, tl.trans(y), input_precision=PRECISION)
    scores = tl.zeros(visible.shape, tl.float32)
    for first in range(0, FEATURES, BF):
        columns = first + tl.arange(0, BF)
        query_features = load_tile(phi_q, rows, columns, FEATURES, queries, FEATURES, tl.float32)
        key_features = load_tile(phi_k, key_rows, columns, FEATURES, keys, FEATURES, tl.float32)
        scores += tl.dot(query_features, tl.trans(key_features), input_precision=PRECISION)
    return logits, tl.where(visible, scores, 0.0), visible


@triton.jit
def _slopes(logits, scores, visible, log_sum, total, mass, share, FLOOR: tl.constexpr):
    """The gradients of the scores [rows keys], share · ∂loss/∂s."""
    weights = tl.exp(tl.where(visible, logits - log_sum[:, None], EMPTY_LOG))
    probabilities = scores / total[:, None]
    pulled = tl.where(probabilities >= FLOOR, weights / tl.maximum(probabilities, FLOOR), 0.0)
    return tl.where(visible, (mass[:, None] - pulled) * (share / total)[:, None], 0.0)


@triton.jit
def distill_rows(q, k, phi_q, phi_k, padding, shares, cross_entropy, kl, log_sums, totals, masses, queries, keys,
                 groups, eps, DIM: tl.constexpr, FEATURES: tl.constexpr, CAUSAL: tl.constexpr,
                 HAS_PADDING: tl.constexpr, FLOOR: tl.constexpr, ROWS: tl.constexpr,
                 BD: tl.constexpr, BF: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The cross-entropy and KL divergence of each row times its share in the mean, and L, S and m; all [l g n].

    Grid: tiles of rows, l · g.
    """
    head = tl.program_id(1).to(tl.int64)
    leading, first = head // groups, tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    q, phi_q = q + head * queries * DIM, phi_q + head * queries * FEATURES
    k, phi_k, padding = k + leading * keys * DIM, phi_k + leading * keys * FEATURES, padding + leading * keys
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, keys - queries + first + ROWS)
    top, exponentials = tl.full((ROWS,), EMPTY_LOG, tl.float32), tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for key_first in range(0, end, ROWS):
        key_rows = key_first + tl.arange(0, ROWS)
        logits, scores, visible = _scores(q, k, phi_q, phi_k, padding, rows, key_rows, queries, keys, DIM, FEATURES,
                                          CAUSAL, HAS_PADDING, BD, BF, PRECISION)  # fmt: skip
        logits = tl.where(visible, logits, EMPTY_LOG)
        grown = tl.maximum(top, tl.max(logits, 1))
        weights = tl.where(visible, tl.exp(logits - grown[:, None]), 0.0)
        exponentials = exponentials * tl.exp(top - grown) + tl.sum(weights, 1)
        top = grown
        total += tl.sum(scores, 1)
    log_sum = top + tl.log(tl.where(exponentials > 0, exponentials, 1.0))
    total += eps
    total = tl.where(total == 0, 1.0, total)
    crossed, entropy = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    for key_first in range(0, end, ROWS):
        key_rows = key_first + tl.arange(0, ROWS)
        logits, scores, visible = _scores(q, k, phi_q, phi_k, padding, rows, key_rows, queries, keys, DIM, FEATURES,
                                          CAUSAL, HAS_PADDING, BD, BF, PRECISION)  # fmt: skip
        logs = tl.where(visible, logits - log_sum[:, None], 0.0)
        weights = tl.where(visible, tl.exp(logs), 0.0)
        probabilities = scores / total[:, None]
        crossed -= tl.sum(weights * tl.log(tl.maximum(probabilities, FLOOR)), 1)
        entropy -= tl.sum(weights * logs, 1)
        mass += tl.sum(tl.where(probabilities >= FLOOR, weights, 0.0), 1)
    real = rows < queries
    share = tl.load(shares + leading * queries + rows, mask=real, other=0.0)
    place = head * queries + rows
    tl.store(cross_entropy + place, crossed * share, mask=real)
    tl.store(kl + place, (crossed - entropy) * share, mask=real)
    tl.store(log_sums + place, log_sum, mask=real)
    tl.store(totals + place, total, mask=real)
    tl.store(masses + place, mass, mask=real)


@triton.jit
def _load_row(shares, log_sums, totals, masses, rows, queries):
    """The L, S, m and share of each row."""
    real = rows < queries
    log_sum = tl.load(log_sums + rows, mask=real, other=0.0)
    total = tl.load(totals + rows, mask=real, other=1.0)
    return log_sum, total, tl.load(masses + rows, mask=real, other=0.0), tl.load(shares + rows, mask=real, other=0.0)


@triton.jit
def distill_query_gradients(q, k, phi_q, phi_k, padding, shares, log_sums, totals, masses, gradients, queries, keys,
                            groups, DIM: tl.constexpr, FEATURES: tl.constexpr, CAUSAL: tl.constexpr,
                            HAS_PADDING: tl.constexpr, FLOOR: tl.constexpr, ROWS: tl.constexpr,
                            BD: tl.constexpr, BF: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The gradients of the queries' features [l g n FEATURES]. Grid: tiles of rows, l · g, tiles of features."""
    head = tl.program_id(1).to(tl.int64)
    leading, first = head // groups, tl.program_id(0) * ROWS
    rows, columns = first + tl.arange(0, ROWS), tl.program_id(2) * BF + tl.arange(0, BF)
    q, phi_q = q + head * queries * DIM, phi_q + head * queries * FEATURES
    k, phi_k, padding = k + leading * keys * DIM, phi_k + leading * keys * FEATURES, padding + leading * keys
    place = head * queries
    log_sum, total, mass, share = _load_row(shares + leading * queries, log_sums + place, totals + place,
                                            masses + place, rows, queries)  # fmt: skip
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, keys - queries + first + ROWS)
    gradient = tl.zeros((ROWS, BF), tl.float32)
    for key_first in range(0, end, ROWS):
        key_rows = key_first + tl.arange(0, ROWS)
        logits, scores, visible = _scores(q, k, phi_q, phi_k, padding, rows, key_rows, queries, keys, DIM, FEATURES,
                                          CAUSAL, HAS_PADDING, BD, BF, PRECISION)  # fmt: skip
        slopes = _slopes(logits, scores, visible, log_sum, total, mass, share, FLOOR)
        y = load_tile(phi_k, key_rows, columns, FEATURES, keys, FEATURES, tl.float32)
        gradient += tl.dot(slopes, y, input_precision=PRECISION)
    store_tile(gradients + place * FEATURES, gradient, rows, columns, FEATURES, queries, FEATURES)


@triton.jit
def distill_key_gradients(q, k, phi_q, phi_k, padding, shares, log_sums, totals, masses, gradients, queries, keys,
                          groups, DIM: tl.constexpr, FEATURES: tl.constexpr, CAUSAL: tl.constexpr,
                          HAS_PADDING: tl.constexpr, FLOOR: tl.constexpr, ROWS: tl.constexpr,
                          BD: tl.constexpr, BF: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The gradients of the keys' features from each query head [l g m FEATURES].

    Grid: tiles of keys, l · g, tiles of features.
    """
    head = tl.program_id(1).to(tl.int64)
    leading, key_first = head // groups, tl.program_id(0) * ROWS
    key_rows, columns = key_first + tl.arange(0, ROWS), tl.program_id(2) * BF + tl.arange(0, BF)
    q, phi_q = q + head * queries * DIM, phi_q + head * queries * FEATURES
    k, phi_k, padding = k + leading * keys * DIM, phi_k + leading * keys * FEATURES, padding + leading * keys
    place = head * queries
    start = 0
    if CAUSAL:
        start = tl.maximum(0, key_first - (keys - queries)) // ROWS * ROWS
    gradient = tl.zeros((ROWS, BF), tl.float32)
    for first in range(start, queries, ROWS):
        rows = first + tl.arange(0, ROWS)
        log_sum, total, mass, share = _load_row(shares + leading * queries, log_sums + place, totals + place,
                                                masses + place, rows, queries)  # fmt: skip
        logits, scores, visible = _scores(q, k, phi_q, phi_k, padding, rows, key_rows, queries, keys, DIM, FEATURES,
                                          CAUSAL, HAS_PADDING, BD, BF, PRECISION)  # fmt: skip
        slopes = _slopes(logits, scores, visible, log_sum, total, mass, share, FLOOR)
        x = load_tile(phi_q, rows, columns, FEATURES, queries, FEATURES, tl.float32)
        gradient += tl.dot(tl.trans(slopes), x, input_precision=PRECISION)
    store_tile(gradients + head * keys * FEATURES, gradient, key_rows, columns, FEATURES, keys, FEATURES)
