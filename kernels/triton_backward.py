"""Triton kernels for the gradients of linear attention with Hedgehog's map inside.

Nothing but the output and each row's norm is kept from the forward pass; features and sums are computed again. With g
and h the gradients of a row's numerator and denominator (`triton_states.row_gradients`),

    ds_ij = g_i·v_j + h_i,   dφ(q_i) = Σ_j ds_ij φ(k_j),   dφ(k_j) = Σ_i ds_ij φ(q_i),   dv_j = Σ_i s_ij g_i,

where keys before a block, and queries after it, come as sums.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from .triton_exact import exact_gradient, exact_scores
from .triton_features import IDENTITY, load_keep, load_map, load_tile, map_features, map_gradient, store_tile
from .triton_forward import locate_chunk, query_scale
from .triton_states import load_peaks, load_vector, row_gradients, shifted

TOWERING = tl.constexpr(46.0)
"""Nats a row's largest shifted exponent may exceed its norm by: `triton_forward.LOST` as a logarithm."""


@triton.jit
def pull_rows(output, grad, pulls, o_batch, o_head, o_row, grad_batch, grad_head, grad_row, tokens,
              VALUES: tl.constexpr, CHUNK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """Gives o·do of every row. Grid: batch · chunks of rows, heads."""
    chunks, head = (tokens + CHUNK - 1) // CHUNK, tl.program_id(1).to(tl.int64)
    batch = (tl.program_id(0) // chunks).to(tl.int64)
    rows, columns = tl.program_id(0) % chunks * CHUNK + tl.arange(0, CHUNK), tl.arange(0, BV)
    o = load_tile(output + batch * o_batch + head * o_head, rows, columns, o_row, tokens, VALUES, tl.float32)
    do = load_tile(grad + batch * grad_batch + head * grad_head, rows, columns, grad_row, tokens, VALUES, tl.float32)
    tl.store(pulls + (batch * tl.num_programs(1) + head) * tokens + rows, tl.sum(o * do, 1), mask=rows < tokens)


@triton.jit
def _towers(plus, minus, plus_peak, minus_peak, norm, rows, end, HALVES: tl.constexpr):
    """Gives whether any row's features over the shift are past what float32 can carry."""
    scale = query_scale(plus, minus, plus_peak, minus_peak, HALVES, True)
    return tl.max(((scale - norm > TOWERING) & (rows < end)).to(tl.int32), 0) > 0


@triton.jit
def state_gradient(numerator, denominator, states, keys, place, columns, value_columns, WIDTH: tl.constexpr,
                    VALUES: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives the gradient [rows columns] of features that were multiplied with one half of a state."""
    state = load_tile(states + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, OPERAND)
    sums = load_vector(keys + place, columns, WIDTH, 0.0)
    grad = tl.dot(numerator.to(OPERAND), tl.trans(state), input_precision=PRECISION)
    return grad + denominator[:, None] * sums[None, :]


@triton.jit
def _gradient_from_block(y, grad_plus, grad_minus, towers, x, norm, numerator, denominator, plus_peak, minus_peak, k, v,
                         q_weight, q_bias, k_weight, k_bias, mask, start, first, end, k_row, v_row, dims, columns,
                         value_columns, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr,
                         HALVES: tl.constexpr, MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr,
                         HAS_MASK: tl.constexpr, CHUNK: tl.constexpr, OPERAND: tl.constexpr,
                         PRECISION: tl.constexpr):  # fmt: skip
    """Adds what the keys of their block give to queries' gradients: of features, or of y where a row towers."""
    rows = first + tl.arange(0, CHUNK)
    matrix, shift = load_map(k_weight, k_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    for key_first in range(start, first + CHUNK, CHUNK):
        key_rows = key_first + tl.arange(0, CHUNK)
        keep = load_keep(mask, key_rows, end, HAS_MASK)
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :] & (rows < end)[:, None]
        keys = load_tile(k, key_rows, dims, k_row, end, DIM, OPERAND)
        values = load_tile(v, key_rows, value_columns, v_row, end, VALUES, OPERAND)
        slopes = tl.dot(numerator.to(OPERAND), tl.trans(values), input_precision=PRECISION)
        slopes = tl.where(visible, slopes + denominator[:, None], 0.0)
        if towers:
            y += exact_gradient(x.to(tl.float32), keys.to(tl.float32), q_weight, q_bias, k_weight, k_bias, dims,
                                columns, visible, norm, slopes, False, DIM, WIDTH, HALVES, MAP,
                                HAS_BIAS)  # fmt: skip
        else:
            k_plus, k_minus = map_features(keys, matrix, shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
            grad_plus += tl.dot(slopes.to(OPERAND), shifted(k_plus, -plus_peak[None, :], LOG).to(OPERAND),
                                input_precision=PRECISION)  # fmt: skip
            if HALVES == 2:
                grad_minus += tl.dot(slopes.to(OPERAND), shifted(k_minus, -minus_peak[None, :], LOG).to(OPERAND),
                                     input_precision=PRECISION)  # fmt: skip
    return y, grad_plus, grad_minus


@triton.jit
def query_gradients(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, norms, pulls, blocks, states, state_keys,
                    peaks_before, peaks_through, grad_y, q_batch, q_head, q_row, k_batch, k_head, k_row,
                    v_batch, v_head, v_row, grad_batch, grad_head, grad_row, mask_batch, tokens, groups,
                    DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                    MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
                    CAUSAL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr,
                    BW: tl.constexpr, BV: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives the gradient of y = Wq + b [batch head tokens WIDTH]. Grid: blocks · chunks in a block, query heads."""
    batch, start, first, end, state = locate_chunk(blocks, CAUSAL, BLOCK, CHUNK)
    if first >= end:
        return
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    kv_head, kv_heads = head // groups, heads // groups
    dims, columns, value_columns = tl.arange(0, BD), tl.arange(0, BW), tl.arange(0, BV)
    rows = first + tl.arange(0, CHUNK)
    q_weight, q_bias = q_weight + head * DIM * WIDTH, q_bias + head * WIDTH
    k_weight, k_bias = k_weight + kv_head * DIM * WIDTH, k_bias + kv_head * WIDTH
    matrix, shift = load_map(q_weight, q_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    x = load_tile(q + batch * q_batch + head * q_head, rows, dims, q_row, end, DIM, OPERAND)
    q_plus, q_minus = map_features(x, matrix, shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
    place = (state * kv_heads + kv_head) * (HALVES * WIDTH)
    given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end, VALUES,
                      tl.float32)  # fmt: skip
    row_base = (batch * heads + head) * tokens
    norm, numerator, denominator = row_gradients(norms + row_base, pulls + row_base, given, rows, end, LOG)
    plus_peak, minus_peak = load_peaks(peaks_before, place, columns, WIDTH, HALVES, LOG)
    weights = shifted(q_plus, plus_peak[None, :] - norm[:, None], LOG)
    grad_plus = state_gradient(numerator, denominator, states, state_keys, place, columns, value_columns, WIDTH,
                                VALUES, OPERAND, PRECISION)  # fmt: skip
    more = weights
    grad_minus = grad_plus
    if HALVES == 2:
        more = shifted(q_minus, minus_peak[None, :] - norm[:, None], LOG)
        grad_minus = state_gradient(numerator, denominator, states, state_keys, place + WIDTH, columns, value_columns,
                                     WIDTH, VALUES, OPERAND, PRECISION)  # fmt: skip
    y = tl.zeros((CHUNK, BW), tl.float32)
    if LOG:
        y = map_gradient(weights, more, grad_plus, grad_minus, HALVES, MAP, LOG)
        grad_plus = tl.zeros((CHUNK, BW), tl.float32)
        grad_minus = tl.zeros((CHUNK, BW), tl.float32)
    if CAUSAL:
        plus_peak, minus_peak = load_peaks(peaks_through, place, columns, WIDTH, HALVES, LOG)
        k += batch * k_batch + kv_head * k_head
        v += batch * v_batch + kv_head * v_head
        mask += batch * mask_batch
        towers = False
        if LOG:
            towers = _towers(q_plus, q_minus, plus_peak, minus_peak, norm, rows, end, HALVES)
        y, grad_plus, grad_minus = _gradient_from_block(
            y, grad_plus, grad_minus, towers, x, norm, numerator, denominator, plus_peak, minus_peak, k, v, q_weight,
            q_bias, k_weight, k_bias, mask, start, first, end, k_row, v_row, dims, columns, value_columns, DIM, WIDTH,
            VALUES, HALVES, MAP, LOG, HAS_BIAS, HAS_MASK, CHUNK, OPERAND, PRECISION)  # fmt: skip
        weights = shifted(q_plus, plus_peak[None, :] - norm[:, None], LOG)
        if HALVES == 2:
            more = shifted(q_minus, minus_peak[None, :] - norm[:, None], LOG)
    if not LOG or CAUSAL:
        y += map_gradient(weights, more, grad_plus, grad_minus, HALVES, MAP, LOG)
    store_tile(grad_y + row_base * WIDTH, y, rows, columns, WIDTH, end, WIDTH)


@triton.jit
def _gradient_from_queries(y, grad_plus, grad_minus, grad_values, plus, minus, plus_peak, minus_peak, keys, values,
                           keep, q, grad, norms, pulls, q_weight, q_bias, k_weight, k_bias, first, block_end, end,
                           q_row, grad_row, dims, columns, value_columns, DIM: tl.constexpr, WIDTH: tl.constexpr,
                           VALUES: tl.constexpr, HALVES: tl.constexpr, MAP: tl.constexpr, LOG: tl.constexpr,
                           HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr, OPERAND: tl.constexpr,
                           PRECISION: tl.constexpr):  # fmt: skip
    """Adds what one head's queries, from a chunk of keys to the end of its block, give to the keys' gradients."""
    key_rows = first + tl.arange(0, CHUNK)
    matrix, shift = load_map(q_weight, q_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    for row_first in range(first, block_end, CHUNK):
        rows = row_first + tl.arange(0, CHUNK)
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :] & (rows < end)[:, None]
        x = load_tile(q, rows, dims, q_row, end, DIM, OPERAND)
        given = load_tile(grad, rows, value_columns, grad_row, end,
                          VALUES, tl.float32)  # fmt: skip
        norm, numerator, denominator = row_gradients(norms, pulls, given, rows, end, LOG)
        q_plus, q_minus = map_features(x, matrix, shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
        slopes = tl.dot(numerator.to(OPERAND), tl.trans(values), input_precision=PRECISION)
        slopes = tl.where(visible, slopes + denominator[:, None], 0.0)
        towers = False
        if LOG:
            towers = _towers(q_plus, q_minus, plus_peak, minus_peak, norm, rows, end, HALVES)
        if towers:
            exact_x, exact_keys = x.to(tl.float32), keys.to(tl.float32)
            scores = exact_scores(exact_x, exact_keys, q_weight, q_bias, k_weight, k_bias, dims, visible,
                                  norm, DIM, WIDTH, HALVES, MAP, HAS_BIAS)  # fmt: skip
            y += exact_gradient(exact_x, exact_keys, q_weight, q_bias, k_weight, k_bias, dims, columns,
                                visible, norm, slopes, True, DIM, WIDTH, HALVES, MAP, HAS_BIAS)  # fmt: skip
        else:
            weights = shifted(q_plus, plus_peak[None, :] - norm[:, None], LOG).to(OPERAND)
            scores = tl.dot(weights, tl.trans(plus.to(OPERAND)), input_precision=PRECISION)
            grad_plus += tl.dot(tl.trans(slopes).to(OPERAND), weights, input_precision=PRECISION)
            if HALVES == 2:
                weights = shifted(q_minus, minus_peak[None, :] - norm[:, None], LOG).to(OPERAND)
                scores += tl.dot(weights, tl.trans(minus.to(OPERAND)), input_precision=PRECISION)
                grad_minus += tl.dot(tl.trans(slopes).to(OPERAND), weights, input_precision=PRECISION)
            scores = tl.where(visible, scores, 0.0)
        grad_values += tl.dot(tl.trans(scores).to(OPERAND), numerator.to(OPERAND), input_precision=PRECISION)
    return y, grad_plus, grad_minus, grad_values


@triton.jit
def key_gradients(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, norms, pulls, blocks, states, state_queries,
                  peaks_through, grad_y, grad_v, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head,
                  v_row, grad_batch, grad_head, grad_row, mask_batch, dv_batch, dv_head, dv_row, tokens, groups,
                  DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                  MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
                  CAUSAL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr, BW: tl.constexpr,
                  BV: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives the gradients of y = Wk + b [batch kv_head tokens WIDTH] and of v. Grid: blocks · chunks, kv heads."""
    batch, start, first, end, state = locate_chunk(blocks, CAUSAL, BLOCK, CHUNK)
    if first >= end:
        return
    kv_head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    heads = kv_heads * groups
    dims, columns, value_columns = tl.arange(0, BD), tl.arange(0, BW), tl.arange(0, BV)
    key_rows = first + tl.arange(0, CHUNK)
    keep = load_keep(mask + batch * mask_batch, key_rows, end, HAS_MASK)
    k_weight, k_bias = k_weight + kv_head * DIM * WIDTH, k_bias + kv_head * WIDTH
    matrix, shift = load_map(k_weight, k_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    keys = load_tile(k + batch * k_batch + kv_head * k_head, key_rows, dims, k_row, end, DIM, OPERAND)
    values = load_tile(v + batch * v_batch + kv_head * v_head, key_rows, value_columns, v_row, end, VALUES, OPERAND)
    plus, minus = map_features(keys, matrix, shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
    place = (state * kv_heads + kv_head) * (HALVES * WIDTH)
    plus_peak, minus_peak = load_peaks(peaks_through, place, columns, WIDTH, HALVES, LOG)
    plus = tl.where(keep[:, None], shifted(plus, -plus_peak[None, :], LOG), 0.0)
    minus = tl.where(keep[:, None], shifted(minus, -minus_peak[None, :], LOG), 0.0)

    after = load_tile(states + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, OPERAND)
    sums = load_vector(state_queries + place, columns, WIDTH, 0.0)
    grad_plus = tl.dot(values, tl.trans(after), input_precision=PRECISION) + sums[None, :]
    grad_values = tl.dot(plus.to(OPERAND), after, input_precision=PRECISION)
    grad_minus = grad_plus
    if HALVES == 2:
        after = load_tile(states + (place + WIDTH) * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, OPERAND)
        sums = load_vector(state_queries + place + WIDTH, columns, WIDTH, 0.0)
        grad_minus = tl.dot(values, tl.trans(after), input_precision=PRECISION) + sums[None, :]
        grad_values += tl.dot(minus.to(OPERAND), after, input_precision=PRECISION)
    y = tl.zeros((CHUNK, BW), tl.float32)
    if CAUSAL:
        block_end = tl.minimum(start + BLOCK, end)
        for group in range(groups):
            head = kv_head * groups + group
            row_base = (batch * heads + head) * tokens
            y, grad_plus, grad_minus, grad_values = _gradient_from_queries(
                y, grad_plus, grad_minus, grad_values, plus, minus, plus_peak, minus_peak, keys, values, keep,
                q + batch * q_batch + head * q_head, grad + batch * grad_batch + head * grad_head, norms + row_base,
                pulls + row_base, q_weight + head * DIM * WIDTH, q_bias + head * WIDTH, k_weight, k_bias, first,
                block_end, end, q_row, grad_row, dims, columns, value_columns, DIM, WIDTH, VALUES, HALVES, MAP, LOG,
                HAS_BIAS, CHUNK, OPERAND, PRECISION)  # fmt: skip
    y += map_gradient(plus, minus, grad_plus, grad_minus, HALVES, MAP, LOG)
    y = tl.where(keep[:, None], y, 0.0)
    grad_values = tl.where(keep[:, None], grad_values, 0.0)
    store_tile(grad_y + (batch * kv_heads + kv_head) * tokens * WIDTH, y, key_rows, columns, WIDTH, end, WIDTH)
    store_tile(grad_v + batch * dv_batch + kv_head * dv_head, grad_values, key_rows, value_columns, dv_row, end, VALUES)


@triton.jit
def map_gradients(x, grad_y, weight, grad_x, grad_weight, grad_bias, x_batch, x_head, x_row, dx_batch, dx_head, dx_row,
                  batches, tokens, parts, span, entries,
                  DIM: tl.constexpr, WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr,
                  BD: tl.constexpr, BW: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives dx = dy Wᵀ, and each part's sums of dW = Σ x dyᵀ [groups·parts head DIM WIDTH] and db.

    A part is `span` tokens of each of a group of `entries` batch entries. Grid: groups · parts, heads.
    """
    part, head, heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first_batch, start = (part // parts).to(tl.int64) * entries, part % parts * span
    dims, columns = tl.arange(0, BD), tl.arange(0, BW)
    matrix, _ = load_map(weight + head * DIM * WIDTH, weight, dims, columns, DIM, WIDTH, IDENTITY + 1, False, OPERAND)
    grad_matrix, grad_shift = tl.zeros((BD, BW), tl.float32), tl.zeros((BW,), tl.float32)
    end = tl.minimum(start + span, tokens)
    for batch in range(first_batch, tl.minimum(first_batch + entries, batches)):
        given_base = grad_y + (batch * heads + head) * tokens * WIDTH
        for first in range(start, end, CHUNK):
            rows = first + tl.arange(0, CHUNK)
            inputs = load_tile(x + batch * x_batch + head * x_head, rows, dims, x_row, end, DIM, OPERAND)
            given = load_tile(given_base, rows, columns, WIDTH, end, WIDTH, OPERAND)
            store_tile(grad_x + batch * dx_batch + head * dx_head,
                       tl.dot(given, tl.trans(matrix), input_precision=PRECISION), rows, dims, dx_row, end,
                       DIM)  # fmt: skip
            grad_matrix += tl.dot(tl.trans(inputs), given, input_precision=PRECISION)
            grad_shift += tl.sum(given.to(tl.float32), 0)
    place = part.to(tl.int64) * heads + head
    store_tile(grad_weight + place * DIM * WIDTH, grad_matrix, dims, columns, WIDTH, DIM, WIDTH)
    if HAS_BIAS:
        tl.store(grad_bias + place * WIDTH + columns, grad_shift, mask=columns < WIDTH)
