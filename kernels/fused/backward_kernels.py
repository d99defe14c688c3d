"""Triton kernels for the gradients of linear attention with Hedgehog's map inside.

Only the output and each row's norm are kept from the forward pass; features and sums are computed again. With s the
scores, and g and h the gradients of a row's numerator and denominator (`triton.states.row_gradients`),

    ds_ij = g_i·v_j + h_i,   dφ(q_i) = Σ_j ds_ij φ(k_j),   dφ(k_j) = Σ_i ds_ij φ(q_i),   dv_j = Σ_i s_ij g_i.

Within a block these sums run over pairs; keys before a block, and queries after it, enter as sums over tokens. In the
names, `given` is g, `slopes` is ds, and a chunk towers if its log features exceed what float32 can hold after the shift
(`triton.forward.any_towers`).
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.exact import exact_gradient, exact_scores
from ..triton.features import load_keep, load_map, load_tile, load_values, map_features, map_gradient, store_tile
from ..triton.forward import any_towers, locate_chunk
from ..triton.states import load_peaks, load_vector, row_gradients, shifted, shifted_halves


@triton.jit
def pull_rows(output, grad, pulls, o_batch, o_head, o_row, grad_batch, grad_head, grad_row, tokens,
              VALUES: tl.constexpr, CHUNK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """The product o·do of every row [b h n]. Grid: batch · chunks of rows, heads."""
    chunks, head = (tokens + CHUNK - 1) // CHUNK, tl.program_id(1).to(tl.int64)
    batch = (tl.program_id(0) // chunks).to(tl.int64)
    rows, columns = tl.program_id(0) % chunks * CHUNK + tl.arange(0, CHUNK), tl.arange(0, BV)
    o = load_tile(output + batch * o_batch + head * o_head, rows, columns, o_row, tokens, VALUES, tl.float32)
    do = load_tile(grad + batch * grad_batch + head * grad_head, rows, columns, grad_row, tokens, VALUES, tl.float32)
    tl.store(pulls + (batch * tl.num_programs(1) + head) * tokens + rows, tl.sum(o * do, 1), mask=rows < tokens)


@triton.jit
def _from_state(given, denominator, states, keys, place, columns, value_columns, C: tl.constexpr):
    """The gradient [columns rows] of features that were multiplied with one half of a state.

    Args:
        given: gradients of the numerators [values rows].
        denominator: gradients of the denominators [rows].
    """
    state = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, C.OPERAND)
    sums = load_vector(keys + place, columns, C.WIDTH, 0.0)
    return tl.dot(state, given, input_precision=C.PRECISION) + denominator[None, :] * sums[:, None]


@triton.jit
def _gradient_from_block(grad_plus, grad_minus, given, denominator, plus_peak, minus_peak, k, v, weight, bias, head,
                         mask, start, first, end, k_row, v_row, dims, columns, value_columns,
                         C: tl.constexpr):  # fmt: skip
    """Adds the part of the keys of a chunk's block to the gradients of the queries' features."""
    rows = first + tl.arange(0, C.CHUNK)
    matrix, shift = load_map(weight, bias, head, dims, columns, C)
    for key_first in range(start, first + C.CHUNK, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, key_rows, end, C.HAS_MASK)
        keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        k_plus, k_minus = map_features(keys, matrix, shift, columns, C)
        slopes = _slopes(given, denominator, v, mask, rows, key_rows, end, v_row, value_columns, C).to(C.OPERAND)
        grad_plus += tl.dot(shifted(k_plus, -plus_peak[:, None], C.LOG).to(C.OPERAND), slopes,
                            input_precision=C.PRECISION)  # fmt: skip
        if C.HALVES == 2:
            grad_minus += tl.dot(shifted(k_minus, -minus_peak[:, None], C.LOG).to(C.OPERAND), slopes,
                                 input_precision=C.PRECISION)  # fmt: skip
    return grad_plus, grad_minus


@triton.jit
def _slopes(given, denominator, v, mask, rows, key_rows, end, v_row, value_columns, C: tl.constexpr):
    """The slopes ds [keys rows], zero where hidden, from g [values rows] and h [rows]."""
    keep = load_keep(mask, key_rows, end, C.HAS_MASK)
    visible = (rows[None, :] >= key_rows[:, None]) & keep[:, None] & (rows < end)[None, :]
    values = load_tile(v, key_rows, value_columns, v_row, end, C.VALUES, C.OPERAND)
    slopes = tl.dot(values, given, input_precision=C.PRECISION) + denominator[None, :]
    return tl.where(visible, slopes, 0.0)


@triton.jit
def _exactly_from_block(y, logs, norm, given, denominator, k, v, weight, bias, head, mask, start, first, end, k_row,
                        v_row, dims, columns, value_columns, C: tl.constexpr):  # fmt: skip
    """Adds the part of the keys of a chunk's block to the gradient of the queries' y [columns rows], pair by pair."""
    rows = first + tl.arange(0, C.CHUNK)
    matrix, shift = load_map(weight, bias, head, dims, columns, C)
    for key_first in range(start, first + C.CHUNK, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, key_rows, end, C.HAS_MASK)
        keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        k_logs, _ = map_features(keys, matrix, shift, columns, C)
        slopes = _slopes(given, denominator, v, mask, rows, key_rows, end, v_row, value_columns, C)
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :]
        y += exact_gradient(logs, k_logs, columns, visible & (rows < end)[:, None], norm, tl.trans(slopes), False, C)
    return y


@triton.jit
def query_gradients(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, norms, pulls, blocks, states, state_keys,
                    peaks_before, peaks_through, grad_y, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch,
                    v_head, v_row, grad_batch, grad_head, grad_row, mask_batch, tokens, groups,
                    C: tl.constexpr):  # fmt: skip
    """The gradient of y = Wq + b [batch head tokens WIDTH]. Grid: blocks · chunks in a block, query heads."""
    batch, start, first, end, state = locate_chunk(blocks, C)
    if first >= end:
        return
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    kv_head, kv_heads = head // groups, heads // groups
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    rows = first + tl.arange(0, C.CHUNK)
    matrix, shift = load_map(q_weight, q_bias, head, dims, columns, C)
    x = load_tile(q + batch * q_batch + head * q_head, rows, dims, q_row, end, C.DIM, C.OPERAND)
    q_plus, q_minus = map_features(x, matrix, shift, columns, C)
    place = (state * kv_heads + kv_head) * (C.HALVES * C.WIDTH)
    row_base = (batch * heads + head) * tokens
    given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end, C.VALUES,
                      tl.float32)  # fmt: skip
    norm, numerator, denominator = row_gradients(norms + row_base, pulls + row_base, given, rows, end, C.LOG)
    given = tl.trans(numerator.to(C.OPERAND))
    before, minus_before = load_peaks(peaks_before, place, columns, C)
    grad_plus = _from_state(given, denominator, states, state_keys, place, columns, value_columns, C)
    grad_minus = grad_plus
    if C.HALVES == 2:
        grad_minus = _from_state(given, denominator, states, state_keys, place + C.WIDTH, columns, value_columns, C)
    through, minus_through = before, minus_before
    towers = False
    k, v = k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head
    mask += batch * mask_batch
    if C.CAUSAL and C.LOG:
        through, minus_through = load_peaks(peaks_through, place, columns, C)
        towers = any_towers(q_plus, q_minus, through, minus_through, norm, rows, end, C)
    if towers:
        y = map_gradient(shifted(q_plus, before[:, None] - norm[None, :], C.LOG),
                         shifted(q_minus, minus_before[:, None] - norm[None, :], C.LOG), grad_plus, grad_minus,
                         C)  # fmt: skip
        y = _exactly_from_block(y, q_plus, norm, given, denominator, k, v, k_weight, k_bias, kv_head, mask, start,
                                first, end, k_row, v_row, dims, columns, value_columns, C)  # fmt: skip
    else:
        if C.CAUSAL:
            if C.LOG:
                grad_plus *= tl.exp(before - through)[:, None]
                grad_minus *= tl.exp(minus_before - minus_through)[:, None]
            grad_plus, grad_minus = _gradient_from_block(
                grad_plus, grad_minus, given, denominator, through, minus_through, k, v, k_weight, k_bias, kv_head,
                mask, start, first, end, k_row, v_row, dims, columns, value_columns, C)  # fmt: skip
        y = map_gradient(shifted(q_plus, through[:, None] - norm[None, :], C.LOG),
                         shifted(q_minus, minus_through[:, None] - norm[None, :], C.LOG), grad_plus, grad_minus,
                         C)  # fmt: skip
    store_tile(grad_y + row_base * C.WIDTH, tl.trans(y), rows, columns, C.WIDTH, end, C.WIDTH)


@triton.jit
def _gradient_from_queries(grad_plus, grad_minus, grad_values, lost, plus, minus, plus_peak, minus_peak, values, keep,
                           q, grad, norms, pulls, weight, bias, head, first, block_end, end, q_row, grad_row, dims,
                           columns, value_columns, C: tl.constexpr):  # fmt: skip
    """Adds the part of one head's queries, from a chunk of keys to the end of its block, to the keys' gradients.

    Chunks of queries with a row that towers are left out and counted in `lost`.
    """
    key_rows = first + tl.arange(0, C.CHUNK)
    matrix, shift = load_map(weight, bias, head, dims, columns, C)
    for row_first in range(first, block_end, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        x = load_tile(q, rows, dims, q_row, end, C.DIM, C.OPERAND)
        given = load_tile(grad, rows, value_columns, grad_row, end, C.VALUES, tl.float32)
        norm, numerator, denominator = row_gradients(norms, pulls, given, rows, end, C.LOG)
        numerator = numerator.to(C.OPERAND)
        q_plus, q_minus = map_features(x, matrix, shift, columns, C)
        real = rows < end
        if C.LOG:
            towers = any_towers(q_plus, q_minus, plus_peak, minus_peak, norm, rows, end, C)
            lost += towers.to(tl.int32)
            real = real & (towers == 0)
        slopes = tl.dot(numerator, tl.trans(values), input_precision=C.PRECISION) + denominator[:, None]
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :] & real[:, None]
        slopes = tl.where(visible, slopes, 0.0).to(C.OPERAND)
        weights = shifted(q_plus, plus_peak[:, None] - norm[None, :], C.LOG).to(C.OPERAND)
        scores = tl.dot(tl.trans(weights), plus, input_precision=C.PRECISION)
        grad_plus += tl.dot(weights, slopes, input_precision=C.PRECISION)
        if C.HALVES == 2:
            weights = shifted(q_minus, minus_peak[:, None] - norm[None, :], C.LOG).to(C.OPERAND)
            scores += tl.dot(tl.trans(weights), minus, input_precision=C.PRECISION)
            grad_minus += tl.dot(weights, slopes, input_precision=C.PRECISION)
        scores = tl.where(visible, scores, 0.0).to(C.OPERAND)
        grad_values += tl.dot(tl.trans(scores), numerator, input_precision=C.PRECISION)
    return grad_plus, grad_minus, grad_values, lost


@triton.jit
def _exactly_from_queries(y, grad_values, logs, plus_peak, minus_peak, values, keep, q, grad, norms, pulls, weight,
                          bias, head, first, block_end, end, q_row, grad_row, dims, columns, value_columns,
                          C: tl.constexpr):  # fmt: skip
    """Adds the part of chunks that `_gradient_from_queries` left out to the gradients of y [columns keys] and of v."""
    key_rows = first + tl.arange(0, C.CHUNK)
    matrix, shift = load_map(weight, bias, head, dims, columns, C)
    for row_first in range(first, block_end, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        x = load_tile(q, rows, dims, q_row, end, C.DIM, C.OPERAND)
        q_plus, q_minus = map_features(x, matrix, shift, columns, C)
        given = load_tile(grad, rows, value_columns, grad_row, end, C.VALUES, tl.float32)
        norm, numerator, denominator = row_gradients(norms, pulls, given, rows, end, True)
        if any_towers(q_plus, q_minus, plus_peak, minus_peak, norm, rows, end, C):
            visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :] & (rows < end)[:, None]
            slopes = tl.dot(numerator.to(C.OPERAND), tl.trans(values), input_precision=C.PRECISION)
            slopes = tl.where(visible, slopes + denominator[:, None], 0.0)
            y += exact_gradient(q_plus, logs, columns, visible, norm, slopes, True, C)
            scores = exact_scores(q_plus, logs, columns, visible, norm, C).to(C.OPERAND)
            grad_values += tl.dot(tl.trans(scores), numerator.to(C.OPERAND), input_precision=C.PRECISION)
    return y, grad_values


@triton.jit
def _keys_from_state(features, given, states, queries, place, columns, value_columns, C: tl.constexpr):
    """The gradients of one half of the keys' features [columns keys] and of values, from the queries after a block."""
    ones = tl.full((features.shape[1],), 1.0, tl.float32)
    grad = _from_state(given, ones, states, queries, place, columns, value_columns, C)
    # Products of fewer than 64 rows need the state in another layout; a second read keeps one copy in shared memory.
    state = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, C.OPERAND,
                      "evict_first" if C.CHUNK < 64 else "")  # fmt: skip
    return grad, tl.dot(tl.trans(features), state, input_precision=C.PRECISION)


@triton.jit
def key_gradients(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, norms, pulls, blocks, states, state_queries,
                  peaks_through, grad_y, grad_v, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
                  grad_batch, grad_head, grad_row, mask_batch, dv_batch, dv_head, dv_row, tokens, groups,
                  C: tl.constexpr):  # fmt: skip
    """The gradients of y = Wk + b [batch kv_head tokens WIDTH] and of v. Grid: blocks · chunks, kv heads."""
    batch, start, first, end, state = locate_chunk(blocks, C)
    if first >= end:
        return
    kv_head, kv_heads, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1), tl.num_programs(1) * groups
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    key_rows = first + tl.arange(0, C.CHUNK)
    keep = load_keep(mask + batch * mask_batch, key_rows, end, C.HAS_MASK)
    matrix, shift = load_map(k_weight, k_bias, kv_head, dims, columns, C)
    values = load_tile(v + batch * v_batch + kv_head * v_head, key_rows, value_columns, v_row, end, C.VALUES, C.OPERAND)
    k += batch * k_batch + kv_head * k_head
    keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
    place = (state * kv_heads + kv_head) * (C.HALVES * C.WIDTH)
    plus_peak, minus_peak = load_peaks(peaks_through, place, columns, C)
    plus, minus = shifted_halves(keys, matrix, shift, plus_peak, minus_peak, keep, columns, C)
    operand, other_operand = plus.to(C.OPERAND), minus.to(C.OPERAND)
    given = tl.trans(values)
    grad_plus, grad_values = _keys_from_state(operand, given, states, state_queries, place, columns, value_columns, C)
    grad_minus = grad_plus
    if C.HALVES == 2:
        grad_minus, more = _keys_from_state(other_operand, given, states, state_queries, place + C.WIDTH, columns,
                                            value_columns, C)  # fmt: skip
        grad_values += more
    lost, block_end = 0, tl.minimum(start + C.BLOCK, end)
    if C.CAUSAL:
        for group in range(groups):
            head = kv_head * groups + group
            row_base = (batch * heads + head) * tokens
            grad_plus, grad_minus, grad_values, lost = _gradient_from_queries(
                grad_plus, grad_minus, grad_values, lost, operand, other_operand, plus_peak, minus_peak, values, keep,
                q + batch * q_batch + head * q_head, grad + batch * grad_batch + head * grad_head, norms + row_base,
                pulls + row_base, q_weight, q_bias, head, first, block_end, end,
                q_row, grad_row, dims, columns, value_columns, C)  # fmt: skip
    # Computed again rather than kept through the loop; the eviction policy keeps the compiler from merging both reads.
    keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK, "evict_first")
    matrix, shift = load_map(k_weight, k_bias, kv_head, dims, columns, C, "evict_first")
    plus, minus = shifted_halves(keys, matrix, shift, plus_peak, minus_peak, keep, columns, C)
    y = map_gradient(plus, minus, grad_plus, grad_minus, C)
    if C.CAUSAL and C.LOG:
        if lost > 0:
            logs, _ = map_features(keys, matrix, shift, columns, C)
            for group in range(groups):
                head = kv_head * groups + group
                row_base = (batch * heads + head) * tokens
                y, grad_values = _exactly_from_queries(
                    y, grad_values, logs, plus_peak, minus_peak, values, keep, q + batch * q_batch + head * q_head,
                    grad + batch * grad_batch + head * grad_head, norms + row_base, pulls + row_base, q_weight, q_bias,
                    head, first, block_end, end, q_row, grad_row, dims, columns, value_columns, C)  # fmt: skip
    y = tl.trans(tl.where(keep[None, :], y, 0.0))
    grad_values = tl.where(keep[:, None], grad_values, 0.0)
    store_tile(grad_y + (batch * kv_heads + kv_head) * tokens * C.WIDTH, y, key_rows, columns, C.WIDTH, end, C.WIDTH)
    store_tile(grad_v + batch * dv_batch + kv_head * dv_head, grad_values, key_rows, value_columns, dv_row, end,
               C.VALUES)  # fmt: skip


@triton.jit
def map_gradients(x, grad_y, weight, mask, grad_x, grad_weight, grad_bias, x_batch, x_head, x_row, mask_batch, dx_batch,
                  dx_head, dx_row, batches, tokens, parts, span, entries, C: tl.constexpr,
                  MASKED: tl.constexpr):  # fmt: skip
    """The gradients dx = dy Wᵀ, and each part's sums of dW = Σ x dyᵀ [groups·parts head DIM WIDTH] and db.

    A part is `span` tokens of each of a group of `entries` batch entries. With MASKED, tokens that the mask hides are
    left out of the sums, whatever their memory holds. Grid: groups · parts, heads.
    """
    part, head, heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first_batch, start = (part // parts).to(tl.int64) * entries, part % parts * span
    dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
    matrix = load_tile(weight + head * C.DIM * C.WIDTH, dims, columns, C.WIDTH, C.DIM, C.WIDTH, C.OPERAND)
    grad_matrix, grad_shift = tl.zeros(matrix.shape, tl.float32), tl.zeros(columns.shape, tl.float32)
    end = tl.minimum(start + span, tokens)
    for batch in range(first_batch, tl.minimum(first_batch + entries, batches)):
        given_base = grad_y + (batch * heads + head) * tokens * C.WIDTH
        for first in range(start, end, C.CHUNK):
            rows = first + tl.arange(0, C.CHUNK)
            keep = load_keep(mask + batch * mask_batch, rows, end, MASKED)
            inputs = load_values(x + batch * x_batch + head * x_head, rows, dims, x_row, end, keep, C.DIM, C.OPERAND,
                                 MASKED)  # fmt: skip
            given = load_tile(given_base, rows, columns, C.WIDTH, end, C.WIDTH, C.OPERAND)
            store_tile(grad_x + batch * dx_batch + head * dx_head,
                       tl.dot(given, tl.trans(matrix), input_precision=C.PRECISION), rows, dims, dx_row, end,
                       C.DIM)  # fmt: skip
            grad_matrix += tl.dot(tl.trans(inputs), given, input_precision=C.PRECISION)
            grad_shift += tl.sum(given.to(tl.float32), 0)
    place = part.to(tl.int64) * heads + head
    store_tile(grad_weight + place * C.DIM * C.WIDTH, grad_matrix, dims, columns, C.WIDTH, C.DIM, C.WIDTH)
    if C.HAS_BIAS:
        tl.store(grad_bias + place * C.WIDTH + columns, grad_shift, mask=columns < C.WIDTH)
