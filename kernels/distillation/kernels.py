"""Triton kernels of attention distillation: the loss of every row, and its gradients, one tile of scores at a time.

For a query row, a_j = exp(z_j - L) are the teacher's weights with z = q·k, and p_j = s_j / S the student's with
s_j = φ(q)·φ(k_j):

    loss = -Σ_j a_j log max(p_j, floor),   S ∂loss/∂s_j = m - a_j u_j / p_j,   u_j = [p_j >= floor],  m = Σ_j a_j u_j

`distill_rows` computes L, S and m of each row; the gradient kernels compute a tile's weights again from them. Leading
axes: l, batch and kv head together, and g, the query heads of a kv head. Features are plain and not negative.

All kernels take `tensors`, which are q, k, φ(q), φ(k) and the padding, and `found`, the results of `distill_rows`.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.features import EMPTY_LOG, dense, filled, load_tile, store_tile, vector_of


@triton.jit
def _scores(tensors, rows, key_rows, queries, keys, C: tl.constexpr):
    """The teacher's logits, the student's scores (zero where hidden) and the mask of visible keys, all [rows keys]."""
    q, k, phi_q, phi_k, padding = tensors
    real = key_rows < keys
    if C.HAS_MASK:
        real &= tl.load(padding + key_rows, mask=real, other=1) == 0
    visible = (rows < queries)[:, None] & real[None, :]
    if C.CAUSAL:
        visible &= (rows + (keys - queries))[:, None] >= key_rows[None, :]
    dims = tl.arange(0, C.BD)
    x = load_tile(q, rows, dims, queries, C.DIM, tl.float32)
    y = load_tile(k, key_rows, dims, keys, C.DIM, tl.float32)
    logits = tl.dot(x, tl.trans(y), input_precision=C.PRECISION)
    scores = tl.zeros(visible.shape, tl.float32)
    for first in range(0, C.WIDTH, C.BW):
        columns = first + tl.arange(0, C.BW)
        query_features = load_tile(phi_q, rows, columns, queries, C.WIDTH, tl.float32)
        key_features = load_tile(phi_k, key_rows, columns, keys, C.WIDTH, tl.float32)
        scores += tl.dot(query_features, tl.trans(key_features), input_precision=C.PRECISION)
    return logits, tl.where(visible, scores, 0.0), visible


@triton.jit
def _of_head(tensors, head, queries, keys, C: tl.constexpr):
    """The matrices of one query head, and the pointer to its padding."""
    q, k, phi_q, phi_k, padding = tensors
    leading = head // C.GROUPS
    return (dense(q + head * queries * C.DIM, C.DIM), dense(k + leading * keys * C.DIM, C.DIM),
            dense(phi_q + head * queries * C.WIDTH, C.WIDTH), dense(phi_k + leading * keys * C.WIDTH, C.WIDTH),
            padding + leading * keys if C.HAS_MASK else k)  # fmt: skip


@triton.jit
def _slopes(logits, scores, visible, row, floor):
    """The gradients of the scores [rows keys], share · ∂loss/∂s; `row` is what `_load_row` gives."""
    log_sum, total, mass, share = row
    weights = tl.exp(tl.where(visible, logits - log_sum[:, None], EMPTY_LOG))
    probabilities = scores / total[:, None]
    pulled = tl.where(probabilities >= floor, weights / tl.maximum(probabilities, floor), 0.0)
    return tl.where(visible, (mass[:, None] - pulled) * (share / total)[:, None], 0.0)


@triton.jit
def distill_rows(tensors, shares, found, queries, keys, eps, floor, C: tl.constexpr):
    """The cross-entropy and KL divergence of each row times its share in the mean, and L, S and m; all [l g n].

    Grid: tiles of rows, l · g.
    """
    head = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * C.CHUNK
    rows = first + tl.arange(0, C.CHUNK)
    tensors = _of_head(tensors, head, queries, keys, C)
    end = keys
    if C.CAUSAL:
        end = tl.minimum(keys, keys - queries + first + C.CHUNK)
    top, exponentials = vector_of(EMPTY_LOG, C.CHUNK), vector_of(0.0, C.CHUNK)
    total = vector_of(0.0, C.CHUNK)
    for key_first in range(0, end, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        logits, scores, visible = _scores(tensors, rows, key_rows, queries, keys, C)
        logits = tl.where(visible, logits, EMPTY_LOG)
        grown = tl.maximum(top, tl.max(logits, 1))
        weights = tl.where(visible, tl.exp(logits - grown[:, None]), 0.0)
        exponentials = exponentials * tl.exp(top - grown) + tl.sum(weights, 1)
        top = grown
        total += tl.sum(scores, 1)
    log_sum = top + tl.log(tl.where(exponentials > 0, exponentials, 1.0))
    total += eps
    total = tl.where(total == 0, 1.0, total)
    crossed, entropy = vector_of(0.0, C.CHUNK), vector_of(0.0, C.CHUNK)
    mass = vector_of(0.0, C.CHUNK)
    for key_first in range(0, end, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        logits, scores, visible = _scores(tensors, rows, key_rows, queries, keys, C)
        logs = tl.where(visible, logits - log_sum[:, None], 0.0)
        weights = tl.where(visible, tl.exp(logs), 0.0)
        probabilities = scores / total[:, None]
        crossed -= tl.sum(weights * tl.log(tl.maximum(probabilities, floor)), 1)
        entropy -= tl.sum(weights * logs, 1)
        mass += tl.sum(tl.where(probabilities >= floor, weights, 0.0), 1)
    real = rows < queries
    share = tl.load(shares + head // C.GROUPS * queries + rows, mask=real, other=0.0)
    place = head * queries + rows
    tl.store(found[0] + place, crossed * share, mask=real)
    tl.store(found[1] + place, (crossed - entropy) * share, mask=real)
    tl.store(found[2] + place, log_sum, mask=real)
    tl.store(found[3] + place, total, mask=real)
    tl.store(found[4] + place, mass, mask=real)


@triton.jit
def _load_row(shares, found, head, rows, queries, C: tl.constexpr):
    """The L, S, m and share of each row."""
    real, place = rows < queries, head * queries
    log_sum = tl.load(found[2] + place + rows, mask=real, other=0.0)
    total = tl.load(found[3] + place + rows, mask=real, other=1.0)
    mass = tl.load(found[4] + place + rows, mask=real, other=0.0)
    return log_sum, total, mass, tl.load(shares + head // C.GROUPS * queries + rows, mask=real, other=0.0)


@triton.jit
def distill_query_gradients(tensors, shares, found, gradients, queries, keys, floor, C: tl.constexpr):
    """The gradients of the queries' features [l g n WIDTH]. Grid: tiles of rows, l · g, tiles of features."""
    head, first = tl.program_id(1).to(tl.int64), tl.program_id(0) * C.CHUNK
    rows, columns = first + tl.arange(0, C.CHUNK), tl.program_id(2) * C.BW + tl.arange(0, C.BW)
    tensors = _of_head(tensors, head, queries, keys, C)
    row = _load_row(shares, found, head, rows, queries, C)
    end = keys
    if C.CAUSAL:
        end = tl.minimum(keys, keys - queries + first + C.CHUNK)
    gradient = filled(0.0, C.CHUNK, C.BW, tl.float32)
    for key_first in range(0, end, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        logits, scores, visible = _scores(tensors, rows, key_rows, queries, keys, C)
        slopes = _slopes(logits, scores, visible, row, floor)
        y = load_tile(tensors[3], key_rows, columns, keys, C.WIDTH, tl.float32)
        gradient += tl.dot(slopes, y, input_precision=C.PRECISION)
    gradients = dense(gradients + head * queries * C.WIDTH, C.WIDTH)
    store_tile(gradients, gradient, rows, columns, queries, C.WIDTH)


@triton.jit
def distill_key_gradients(tensors, shares, found, gradients, queries, keys, floor, C: tl.constexpr):
    """The gradients of the keys' features from each query head [l g m WIDTH].

    Grid: tiles of keys, l · g, tiles of features.
    """
    head, key_first = tl.program_id(1).to(tl.int64), tl.program_id(0) * C.CHUNK
    key_rows, columns = key_first + tl.arange(0, C.CHUNK), tl.program_id(2) * C.BW + tl.arange(0, C.BW)
    tensors = _of_head(tensors, head, queries, keys, C)
    start = 0
    if C.CAUSAL:
        start = tl.maximum(0, key_first - (keys - queries)) // C.CHUNK * C.CHUNK
    gradient = filled(0.0, C.CHUNK, C.BW, tl.float32)
    for first in range(start, queries, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        row = _load_row(shares, found, head, rows, queries, C)
        logits, scores, visible = _scores(tensors, rows, key_rows, queries, keys, C)
        slopes = _slopes(logits, scores, visible, row, floor)
        x = load_tile(tensors[2], rows, columns, queries, C.WIDTH, tl.float32)
        gradient += tl.dot(tl.trans(slopes), x, input_precision=C.PRECISION)
    gradients = dense(gradients + head * keys * C.WIDTH, C.WIDTH)
    store_tile(gradients, gradient, key_rows, columns, keys, C.WIDTH)
