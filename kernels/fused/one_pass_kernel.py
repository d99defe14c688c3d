"""Triton kernel for causal linear attention with Hedgehog's map inside, in one pass.

A program for each head, sequence and tile of values walks through the tokens with the sums in registers: q, k and v are
read once, and no sum reaches memory but the last.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from ..triton.exact import exact_scores, highest_log
from ..triton.features import EMPTY_LOG, load_keep, load_map, load_tile, load_values, map_features
from ..triton.forward import any_lost, finish, query_scale
from ..triton.states import load_vector, shifted, store_sums


@triton.jit
def attend_sequentially(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, spans, initial, initial_keys,
                        initial_peaks, output, norms, final, final_keys, final_peaks,
                        q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch,
                        o_batch, o_head, o_row, tokens, groups, eps,
                        DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                        MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
                        NORMALIZE: tl.constexpr, HAS_INITIAL: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr,
                        BW: tl.constexpr, BV: tl.constexpr, OPERAND: tl.constexpr,
                        PRECISION: tl.constexpr):  # fmt: skip
    """Causal outputs, norms and the sums after the last key in one pass.

    `spans` is [sequences 3]: batch entry, first token, end. Grid: sequences, query heads, tiles of values.
    """
    sequence, head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    heads, kv_head, kv_heads = tl.num_programs(1), head // groups, tl.num_programs(1) // groups
    batch = tl.load(spans + sequence * 3).to(tl.int64)
    start, end = tl.load(spans + sequence * 3 + 1), tl.load(spans + sequence * 3 + 2)
    dims, columns, value_columns = tl.arange(0, BD), tl.arange(0, BW), tile * BV + tl.arange(0, BV)
    q_matrix, q_shift = load_map(q_weight + head * DIM * WIDTH, q_bias + head * WIDTH, dims, columns, DIM, WIDTH, MAP,
                                 HAS_BIAS, OPERAND)  # fmt: skip
    k_matrix, k_shift = load_map(k_weight + kv_head * DIM * WIDTH, k_bias + kv_head * WIDTH, dims, columns, DIM, WIDTH,
                                 MAP, HAS_BIAS, OPERAND)  # fmt: skip
    q, k = q + batch * q_batch + head * q_head, k + batch * k_batch + kv_head * k_head
    v, mask = v + batch * v_batch + kv_head * v_head, mask + batch * mask_batch
    output, norms = output + batch * o_batch + head * o_head, norms + (batch * heads + head) * tokens
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
        values = load_values(v, rows, value_columns, v_row, end, keep, VALUES, OPERAND, HAS_MASK)
        plus, minus = map_features(keys, k_matrix, k_shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION, 0)
        plus_weights, plus_total, plus_through = _weigh(plus, plus_keys, plus_peak, keep, LOG, OPERAND)
        minus_weights, minus_total, minus_through = plus_weights, plus_total, plus_through
        if HALVES == 2:
            minus_weights, minus_total, minus_through = _weigh(minus, minus_keys, minus_peak, keep, LOG, OPERAND)
        plus, minus = map_features(x, q_matrix, q_shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION, 0)
        scale = query_scale(plus, minus, plus_through, minus_through, HALVES, LOG)
        scores, denominator = _score(plus, minus, scale, plus_weights, minus_weights, plus_keys, minus_keys, plus_peak,
                                     minus_peak, plus_through, minus_through, rows, HALVES, LOG, OPERAND,
                                     PRECISION)  # fmt: skip
        if LOG:
            if any_lost(denominator, scale, rows, end):
                keys = load_tile(k, rows, dims, k_row, end, DIM, OPERAND)
                logs, _ = map_features(keys, k_matrix, k_shift, columns, WIDTH, HALVES, MAP, True, PRECISION, 0)
                scores, denominator, scale = _score_exactly(plus, minus, logs, plus_keys, minus_keys, plus_peak,
                                                            minus_peak, rows, keep, columns, WIDTH, HALVES)  # fmt: skip
        numerator = tl.dot(scores.to(OPERAND), values, input_precision=PRECISION)
        numerator, plus_state = _read_and_absorb(numerator, plus, scale, plus_state, plus_weights, values, plus_peak,
                                                 plus_through, LOG, OPERAND, PRECISION)  # fmt: skip
        if HALVES == 2:
            numerator, minus_state = _read_and_absorb(numerator, minus, scale, minus_state, minus_weights, values,
                                                      minus_peak, minus_through, LOG, OPERAND, PRECISION)  # fmt: skip
        plus_keys, minus_keys, plus_peak, minus_peak = plus_total, minus_total, plus_through, minus_through
        finish(numerator, denominator, scale, output, norms, rows, value_columns, o_row, end, eps, tile, VALUES, LOG,
               NORMALIZE)  # fmt: skip
    if head % groups == 0:
        store_sums(final, final_keys, final_peaks, place, columns, value_columns, tile, plus_state, plus_keys,
                   plus_peak, WIDTH, VALUES, LOG)  # fmt: skip
        if HALVES == 2:
            store_sums(final, final_keys, final_peaks, place + WIDTH, columns, value_columns, tile, minus_state,
                       minus_keys, minus_peak, WIDTH, VALUES, LOG)  # fmt: skip


@triton.jit
def _start(initial, initial_keys, initial_peaks, place, columns, value_columns, WIDTH: tl.constexpr,
           VALUES: tl.constexpr, LOG: tl.constexpr, HAS_INITIAL: tl.constexpr):  # fmt: skip
    """One half of the sums before the first token, and their shift."""
    state = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    keys, peak = tl.zeros(columns.shape, tl.float32), tl.full(columns.shape, EMPTY_LOG, tl.float32)
    if HAS_INITIAL:
        state = load_tile(initial + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, tl.float32)
        keys = load_vector(initial_keys + place, columns, WIDTH, 0.0)
        if LOG:
            peak = load_vector(initial_peaks + place, columns, WIDTH, EMPTY_LOG)
    return state, keys, peak


@triton.jit
def _weigh(features, keys, peak, keep, LOG: tl.constexpr, OPERAND: tl.constexpr):
    """One half of keys' features over their shift, as an operand, and the keys' sum and shift that include them."""
    if LOG:
        grown = tl.maximum(peak, tl.max(tl.where(keep[None, :], features, EMPTY_LOG), 1))
        features = shifted(features, -grown[:, None], True)
        keys *= tl.exp(peak - grown)
        peak = grown
    features = tl.where(keep[None, :], features, 0.0)
    return features.to(OPERAND), keys + tl.sum(features, 1), peak


@triton.jit
def _score_half(features, scale, weights, keys, before, through, LOG: tl.constexpr, OPERAND: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """One half's part of a chunk's scores [rows keys], and of the denominators over the sums before it."""
    if LOG:
        features = shifted(features, through[:, None] - scale[None, :], True)
        keys *= tl.exp(before - through)
    denominator = tl.sum(features * keys[:, None], 0)
    return tl.dot(tl.trans(features.to(OPERAND)), weights, input_precision=PRECISION), denominator


@triton.jit
def _score(plus, minus, scale, plus_weights, minus_weights, plus_keys, minus_keys, plus_before, minus_before,
           plus_through, minus_through, rows, HALVES: tl.constexpr, LOG: tl.constexpr, OPERAND: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """A chunk's scores [rows keys], zero where hidden, and denominators [rows] with the sums before it."""
    scores, denominator = _score_half(plus, scale, plus_weights, plus_keys, plus_before, plus_through, LOG, OPERAND,
                                      PRECISION)  # fmt: skip
    if HALVES == 2:
        more, more_keys = _score_half(minus, scale, minus_weights, minus_keys, minus_before, minus_through, LOG,
                                      OPERAND, PRECISION)  # fmt: skip
        scores, denominator = scores + more, denominator + more_keys
    scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
    return scores, denominator + tl.sum(scores, 1)


@triton.jit
def _score_exactly(plus, minus, logs, plus_keys, minus_keys, plus_peak, minus_peak, rows, keep, columns,
                   WIDTH: tl.constexpr, HALVES: tl.constexpr):  # fmt: skip
    """A chunk's scores, summed pair by pair, denominators, and the logarithm taken off each row."""
    visible = (rows[:, None] >= rows[None, :]) & keep[None, :]
    scale = query_scale(plus, minus, plus_peak, minus_peak, HALVES, True)
    scale = highest_log(plus, logs, columns, visible, scale, WIDTH, HALVES)
    scores = exact_scores(plus, logs, columns, visible, scale, WIDTH, HALVES)
    denominator = tl.sum(scores, 1) + _read_keys(plus, scale, plus_keys, plus_peak)
    if HALVES == 2:
        denominator += _read_keys(minus, scale, minus_keys, minus_peak)
    return scores, denominator, scale


@triton.jit
def _read_keys(logs, scale, keys, peak):
    """One half's part of the denominators over the sums before a chunk."""
    return tl.sum(shifted(logs, peak[:, None] - scale[None, :], True) * keys[:, None], 0)


@triton.jit
def _read_and_absorb(numerator, features, scale, state, weights, values, before, through, LOG: tl.constexpr,
                     OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Adds what queries read from one half of the sums, then a chunk's keys to those sums."""
    features = shifted(features, before[:, None] - scale[None, :], LOG).to(OPERAND)
    numerator += tl.dot(tl.trans(features), state.to(OPERAND), input_precision=PRECISION)
    if LOG:
        state *= tl.exp(before - through)[:, None]
    return numerator, state + tl.dot(weights, values, input_precision=PRECISION)
