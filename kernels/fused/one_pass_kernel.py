"""Triton kernel for causal linear attention with Hedgehog's map inside, in one pass.

A program for each head, sequence and tile of values goes through the tokens with the sums in registers: it reads q, k
and v once, and writes only the last sums to memory.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.exact import exact_scores, highest_log
from ..triton.features import EMPTY_LOG, load_keep, load_map, load_tile, load_values, map_features
from ..triton.forward import any_lost, finish, query_scale
from ..triton.states import load_sums, shifted, store_sums


@triton.jit
def attend_sequentially(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, spans, initial, initial_keys, initial_peaks,
                        output, norms, final, final_keys, final_peaks, q_batch, q_head, q_row, k_batch, k_head, k_row,
                        v_batch, v_head, v_row, mask_batch, o_batch, o_head, o_row, tokens, groups, eps,
                        C: tl.constexpr, HAS_INITIAL: tl.constexpr):  # fmt: skip
    """Causal outputs, norms and the sums after the last key, in one pass.

    `spans` is [sequences 3]: batch entry, first token, end. Grid: sequences, query heads, tiles of values.
    """
    sequence, head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    heads, kv_head, kv_heads = tl.num_programs(1), head // groups, tl.num_programs(1) // groups
    batch = tl.load(spans + sequence * 3).to(tl.int64)
    start, end = tl.load(spans + sequence * 3 + 1), tl.load(spans + sequence * 3 + 2)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    q_matrix, q_shift = load_map(q_weight, q_bias, head, dims, columns, C)
    k_matrix, k_shift = load_map(k_weight, k_bias, kv_head, dims, columns, C)
    q, k = q + batch * q_batch + head * q_head, k + batch * k_batch + kv_head * k_head
    v, mask = v + batch * v_batch + kv_head * v_head, mask + batch * mask_batch
    output, norms = output + batch * o_batch + head * o_head, norms + (batch * heads + head) * tokens
    place = (sequence * kv_heads + kv_head) * (C.HALVES * C.WIDTH)
    plus_state, plus_keys, plus_peak, minus_state, minus_keys, minus_peak = load_sums(
        initial, initial_keys, initial_peaks, place, columns, value_columns, C, HAS_INITIAL)  # fmt: skip
    for first in range(start, end, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, rows, end, C.HAS_MASK)
        x = load_tile(q, rows, dims, q_row, end, C.DIM, C.OPERAND)
        keys = load_values(k, rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        values = load_values(v, rows, value_columns, v_row, end, keep, C.VALUES, C.OPERAND, C.HAS_MASK)
        plus, minus = map_features(keys, k_matrix, k_shift, columns, C)
        plus_weights, plus_total, plus_through = _weigh(plus, plus_keys, plus_peak, keep, C)
        minus_weights, minus_total, minus_through = plus_weights, plus_total, plus_through
        if C.HALVES == 2:
            minus_weights, minus_total, minus_through = _weigh(minus, minus_keys, minus_peak, keep, C)
        plus, minus = map_features(x, q_matrix, q_shift, columns, C)
        scale = query_scale(plus, minus, plus_through, minus_through, C)
        scores, denominator = _score_half(plus, scale, plus_weights, plus_keys, plus_peak, plus_through, C)
        if C.HALVES == 2:
            more, more_keys = _score_half(minus, scale, minus_weights, minus_keys, minus_peak, minus_through, C)
            scores, denominator = scores + more, denominator + more_keys
        scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
        denominator += tl.sum(scores, 1)
        if C.LOG:
            if any_lost(denominator, scale, rows, end):
                keys = load_values(k, rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
                logs, _ = map_features(keys, k_matrix, k_shift, columns, C)
                scores, denominator, scale = _score_exactly(plus, minus, logs, plus_keys, minus_keys, plus_peak,
                                                            minus_peak, rows, keep, columns, C)  # fmt: skip
        numerator = tl.dot(scores.to(C.OPERAND), values, input_precision=C.PRECISION)
        numerator, plus_state = _read_and_absorb(numerator, plus, scale, plus_state, plus_weights, values, plus_peak,
                                                 plus_through, C)  # fmt: skip
        if C.HALVES == 2:
            numerator, minus_state = _read_and_absorb(numerator, minus, scale, minus_state, minus_weights, values,
                                                      minus_peak, minus_through, C)  # fmt: skip
        plus_keys, minus_keys, plus_peak, minus_peak = plus_total, minus_total, plus_through, minus_through
        finish(numerator, denominator, scale, output, norms, rows, value_columns, o_row, end, eps, tile, C)
    if head % groups == 0:
        store_sums(final, final_keys, final_peaks, place, columns, value_columns, tile,
                   (plus_state, plus_keys, plus_peak), (minus_state, minus_keys, minus_peak), C, C.LOG)  # fmt: skip


@triton.jit
def _weigh(features, keys, peak, keep, C: tl.constexpr):
    """One half of the keys' features after the shift, as an operand, and the sum and shift that include these keys."""
    if C.LOG:
        grown = tl.maximum(peak, tl.max(tl.where(keep[None, :], features, EMPTY_LOG), 1))
        features = shifted(features, -grown[:, None], True)
        keys *= tl.exp(peak - grown)
        peak = grown
    features = tl.where(keep[None, :], features, 0.0)
    return features.to(C.OPERAND), keys + tl.sum(features, 1), peak


@triton.jit
def _score_half(features, scale, weights, keys, before, through, C: tl.constexpr):
    """One half's part of a chunk's scores [rows keys], and of the denominators from the sums before the chunk."""
    if C.LOG:
        features = shifted(features, through[:, None] - scale[None, :], True)
        keys *= tl.exp(before - through)
    denominator = tl.sum(features * keys[:, None], 0)
    return tl.dot(tl.trans(features.to(C.OPERAND)), weights, input_precision=C.PRECISION), denominator


@triton.jit
def _score_exactly(plus, minus, logs, plus_keys, minus_keys, plus_peak, minus_peak, rows, keep, columns,
                   C: tl.constexpr):  # fmt: skip
    """A chunk's scores, summed pair by pair, their denominators, and the scale of each row as a logarithm."""
    visible = (rows[:, None] >= rows[None, :]) & keep[None, :]
    scale = query_scale(plus, minus, plus_peak, minus_peak, C)
    scale = highest_log(plus, logs, columns, visible, scale, C)
    scores = exact_scores(plus, logs, columns, visible, scale, C)
    denominator = tl.sum(scores, 1) + _read_keys(plus, scale, plus_keys, plus_peak)
    if C.HALVES == 2:
        denominator += _read_keys(minus, scale, minus_keys, minus_peak)
    return scores, denominator, scale


@triton.jit
def _read_keys(logs, scale, keys, peak):
    """One half's part of the denominators from the sums before a chunk."""
    return tl.sum(shifted(logs, peak[:, None] - scale[None, :], True) * keys[:, None], 0)


@triton.jit
def _read_and_absorb(numerator, features, scale, state, weights, values, before, through, C: tl.constexpr):
    """Adds one half's part of the numerators from the sums before a chunk, then adds the chunk's keys to these sums."""
    features = shifted(features, before[:, None] - scale[None, :], C.LOG).to(C.OPERAND)
    numerator += tl.dot(tl.trans(features), state.to(C.OPERAND), input_precision=C.PRECISION)
    if C.LOG:
        state *= tl.exp(before - through)[:, None]
    return numerator, state + tl.dot(weights, values, input_precision=C.PRECISION)
