"""Triton kernel for causal linear attention with Hedgehog's map inside, in one pass.

A program for each head, sequence and tile of values walks through the tokens with the sums in registers: q, k and v are
read once, and no sum reaches memory but the last.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from .triton_exact import exact_scores, highest_log
from .triton_features import EMPTY_LOG, load_keep, load_map, load_tile, map_features, store_tile
from .triton_forward import any_lost, chunk_scores, finish, load_values, query_scale
from .triton_states import load_vector, shifted


@triton.jit
def attend_sequentially(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, sequences, initial, initial_keys,
                        initial_peaks, output, norms, final, final_keys, final_peaks,
                        q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch,
                        o_batch, o_head, o_row, tokens, groups, eps,
                        DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                        MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
                        NORMALIZE: tl.constexpr, HAS_INITIAL: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr,
                        BW: tl.constexpr, BV: tl.constexpr, OPERAND: tl.constexpr,
                        PRECISION: tl.constexpr):  # fmt: skip
    """Gives causal outputs, norms and the sums after the last key in one pass.

    `sequences` is [sequences 3]: batch entry, first token, end. Grid: sequences, query heads, tiles of values.
    """
    sequence, head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    heads, kv_head, kv_heads = tl.num_programs(1), head // groups, tl.num_programs(1) // groups
    batch = tl.load(sequences + sequence * 3).to(tl.int64)
    start, end = tl.load(sequences + sequence * 3 + 1), tl.load(sequences + sequence * 3 + 2)
    dims, columns, value_columns = tl.arange(0, BD), tl.arange(0, BW), tile * BV + tl.arange(0, BV)
    q_weight, q_bias = q_weight + head * DIM * WIDTH, q_bias + head * WIDTH
    k_weight, k_bias = k_weight + kv_head * DIM * WIDTH, k_bias + kv_head * WIDTH
    q_matrix, q_shift = load_map(q_weight, q_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    k_matrix, k_shift = load_map(k_weight, k_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    q, k = q + batch * q_batch + head * q_head, k + batch * k_batch + kv_head * k_head
    v, mask = v + batch * v_batch + kv_head * v_head, mask + batch * mask_batch
    output += batch * o_batch + head * o_head
    place = (sequence * kv_heads + kv_head) * (HALVES * WIDTH)
    plus_state, plus_keys, plus_peak = _start(initial, initial_keys, initial_peaks, place, columns, value_columns,
                                              WIDTH, VALUES, LOG, HAS_INITIAL)  # fmt: skip
    minus_state, minus_keys, minus_peak = plus_state, plus_keys, plus_peak
    if HALVES == 2:
        minus_state, minus_keys, minus_peak = _start(initial, initial_keys, initial_peaks, place + WIDTH, columns,
                                                     value_columns, WIDTH, VALUES, LOG, HAS_INITIAL)  # fmt: skip
    for first in range(start, end, CHUNK):
        rows = first + tl.arange(0, CHUNK)
        keep = load_keep(mask, rows, end, HAS_MASK)
        x, keys = load_tile(q, rows, dims, q_row, end, DIM, OPERAND), load_tile(k, rows, dims, k_row, end, DIM, OPERAND)
        values = load_values(v, rows, value_columns, v_row, end, keep, VALUES, OPERAND)
        plus, minus = map_features(x, q_matrix, q_shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
        k_plus, k_minus = map_features(keys, k_matrix, k_shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
        plus_through, minus_through = _grown(plus_peak, minus_peak, k_plus, k_minus, keep, HALVES, LOG)
        scale = query_scale(plus, minus, plus_through, minus_through, HALVES, LOG)
        visible = (rows[:, None] >= rows[None, :]) & keep[None, :]
        scores = chunk_scores(shifted(plus, plus_through[None, :] - scale[:, None], LOG).to(OPERAND),
                              shifted(minus, minus_through[None, :] - scale[:, None], LOG).to(OPERAND), k_plus, k_minus,
                              plus_through, minus_through, HALVES, LOG, OPERAND, PRECISION)  # fmt: skip
        scores = tl.where(visible, scores, 0.0)
        numerator, denominator = _read(scores, plus, minus, scale, values, plus_state, minus_state, plus_keys,
                                       minus_keys, plus_peak, minus_peak, HALVES, LOG, OPERAND, PRECISION)  # fmt: skip
        if LOG:
            if any_lost(denominator, scale, rows, end):
                scores, scale = _exact_scores(x, keys, plus, minus, plus_peak, minus_peak, q_weight, q_bias, k_weight,
                                              k_bias, dims, visible, DIM, WIDTH, HALVES, MAP, HAS_BIAS)  # fmt: skip
                numerator, denominator = _read(scores, plus, minus, scale, values, plus_state, minus_state, plus_keys,
                                               minus_keys, plus_peak, minus_peak, HALVES, LOG, OPERAND,
                                               PRECISION)  # fmt: skip
        finish(numerator, denominator, scale, output, norms + (batch * heads + head) * tokens, rows, value_columns,
               o_row, end, eps, tile, VALUES, LOG, NORMALIZE)  # fmt: skip
        plus_state, plus_keys = _absorb(k_plus, plus_peak, plus_through, plus_state, plus_keys, values, keep, LOG,
                                        OPERAND, PRECISION)  # fmt: skip
        if HALVES == 2:
            minus_state, minus_keys = _absorb(k_minus, minus_peak, minus_through, minus_state, minus_keys, values,
                                              keep, LOG, OPERAND, PRECISION)  # fmt: skip
        plus_peak, minus_peak = plus_through, minus_through
    if head % groups == 0:
        _store_half(final, final_keys, final_peaks, place, plus_state, plus_keys, plus_peak, columns, value_columns,
                    tile, WIDTH, VALUES, LOG)  # fmt: skip
        if HALVES == 2:
            _store_half(final, final_keys, final_peaks, place + WIDTH, minus_state, minus_keys, minus_peak, columns,
                        value_columns, tile, WIDTH, VALUES, LOG)  # fmt: skip


@triton.jit
def _start(initial, initial_keys, initial_peaks, place, columns, value_columns, WIDTH: tl.constexpr,
           VALUES: tl.constexpr, LOG: tl.constexpr, HAS_INITIAL: tl.constexpr):  # fmt: skip
    """Gives one half of the sums before the first token, and their shift."""
    state = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    keys, peak = tl.zeros(columns.shape, tl.float32), tl.full(columns.shape, EMPTY_LOG, tl.float32)
    if HAS_INITIAL:
        state = load_tile(initial + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, tl.float32)
        keys = load_vector(initial_keys + place, columns, WIDTH, 0.0)
        if LOG:
            peak = load_vector(initial_peaks + place, columns, WIDTH, EMPTY_LOG)
    return state, keys, peak


@triton.jit
def _exact_scores(q, k, plus, minus, plus_peak, minus_peak, q_weight, q_bias, k_weight, k_bias, dims, visible,
                  DIM: tl.constexpr, WIDTH: tl.constexpr, HALVES: tl.constexpr, MAP: tl.constexpr,
                  HAS_BIAS: tl.constexpr):  # fmt: skip
    """Gives a chunk's scores pair by pair, over the logarithm [rows] of what a row sees at most, and that."""
    q, k = q.to(tl.float32), k.to(tl.float32)
    scale = query_scale(plus, minus, plus_peak, minus_peak, HALVES, True)
    scale = highest_log(q, k, q_weight, q_bias, k_weight, k_bias, dims, visible, scale, DIM, WIDTH, HALVES, MAP,
                        HAS_BIAS)  # fmt: skip
    scores = exact_scores(q, k, q_weight, q_bias, k_weight, k_bias, dims, visible, scale, DIM, WIDTH, HALVES, MAP,
                          HAS_BIAS)  # fmt: skip
    return scores, scale


@triton.jit
def _grown(plus_peak, minus_peak, k_plus, k_minus, keep, HALVES: tl.constexpr, LOG: tl.constexpr):
    """Gives the shifts once a chunk's keys are counted in."""
    if LOG:
        plus_peak = tl.maximum(plus_peak, tl.max(tl.where(keep[:, None], k_plus, EMPTY_LOG), 0))
        if HALVES == 2:
            minus_peak = tl.maximum(minus_peak, tl.max(tl.where(keep[:, None], k_minus, EMPTY_LOG), 0))
    return plus_peak, minus_peak


@triton.jit
def _read(scores, plus, minus, scale, values, plus_state, minus_state, plus_keys, minus_keys, plus_peak, minus_peak,
          HALVES: tl.constexpr, LOG: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives numerators and denominators over a chunk's scores and the sums before it."""
    plus = shifted(plus, plus_peak[None, :] - scale[:, None], LOG)
    denominator = tl.sum(scores, 1) + tl.sum(plus * plus_keys[None, :], 1)
    numerator = tl.dot(scores.to(OPERAND), values, input_precision=PRECISION)
    numerator += tl.dot(plus.to(OPERAND), plus_state.to(OPERAND), input_precision=PRECISION)
    if HALVES == 2:
        minus = shifted(minus, minus_peak[None, :] - scale[:, None], LOG)
        denominator += tl.sum(minus * minus_keys[None, :], 1)
        numerator += tl.dot(minus.to(OPERAND), minus_state.to(OPERAND), input_precision=PRECISION)
    return numerator, denominator


@triton.jit
def _absorb(features, before, through, state, keys, values, keep, LOG: tl.constexpr, OPERAND: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """Adds a chunk's keys to one half of the sums, whose shift grows from `before` to `through`."""
    if LOG:
        kept = tl.exp(before - through)
        state, keys = state * kept[:, None], keys * kept
    weights = tl.where(keep[:, None], shifted(features, -through[None, :], LOG), 0.0)
    state += tl.dot(tl.trans(weights.to(OPERAND)), values, input_precision=PRECISION)
    return state, keys + tl.sum(weights, 0)


@triton.jit
def _store_half(final, final_keys, final_peaks, place, state, keys, peak, columns, value_columns, tile,
                WIDTH: tl.constexpr, VALUES: tl.constexpr, LOG: tl.constexpr):  # fmt: skip
    store_tile(final + place * VALUES, state, columns, value_columns, VALUES, WIDTH, VALUES)
    if tile == 0:
        tl.store(final_keys + place + columns, keys, mask=columns < WIDTH)
        if LOG:
            tl.store(final_peaks + place + columns, peak, mask=columns < WIDTH)
