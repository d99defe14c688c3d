"""Triton kernel for the outputs of linear attention with Hedgehog's map inside, the second of two passes.

After `triton.states.scan_keys` each chunk of queries has a program, which reads the sums over the keys before its block
and attends to the keys of its block.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .exact import exact_scores, highest_log
from .features import EMPTY_LOG, load_keep, load_map, load_tile, load_values, map_features, store_tile
from .states import load_peaks, load_vector, shifted

LOST = tl.constexpr(1e-20)
"""A shifted denominator below which terms of its row may have underflowed: float32 holds terms down to 1e-38."""


TOWERING = tl.constexpr(46.0)
"""Nats by which a row's largest shifted exponent may exceed its norm: -log `LOST`."""


@triton.jit
def query_scale(plus, minus, plus_peak, minus_peak, C: tl.constexpr):
    """The largest exponent [rows] of queries' log features [columns rows] plus the keys' shift; zeros without LOG.

    Callers subtract it, so that the largest query weight of each row is 1.
    """
    scale = tl.zeros((plus.shape[1],), tl.float32)
    if C.LOG:
        highest = tl.maximum(plus + plus_peak[:, None], EMPTY_LOG)
        if C.HALVES == 2:
            highest = tl.maximum(highest, minus + minus_peak[:, None])
        scale = tl.max(highest, 0)
    return scale


@triton.jit
def locate_chunk(blocks, C: tl.constexpr):
    """The batch entry, first token of the block, first token of the chunk, end of the sequence, and state of a program.

    The state is the block's index with CAUSAL, else the sequence's.
    """
    block = (tl.program_id(0) // (C.BLOCK // C.CHUNK)).to(tl.int64)
    batch = tl.load(blocks + block * 4).to(tl.int64)
    start, end = tl.load(blocks + block * 4 + 1), tl.load(blocks + block * 4 + 2)
    state = block
    if not C.CAUSAL:
        state = tl.load(blocks + block * 4 + 3).to(tl.int64)
    return batch, start, start + (tl.program_id(0) % (C.BLOCK // C.CHUNK)) * C.CHUNK, end, state


@triton.jit
def _read_half(features, scale, states, keys, peak, place, columns, value_columns, C: tl.constexpr):
    features = shifted(features, peak[:, None] - scale[None, :], C.LOG)
    sums = load_vector(keys + place, columns, C.WIDTH, 0.0)
    denominator = tl.sum(features * sums[:, None], 0)
    state = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, C.OPERAND)
    return tl.dot(tl.trans(features.to(C.OPERAND)), state, input_precision=C.PRECISION), denominator


@triton.jit
def read_states(plus, minus, scale, states, keys, peaks, place, columns, value_columns, C: tl.constexpr):
    """The numerators [rows values] and denominators [rows] of queries [columns rows] over the keys of a state."""
    plus_peak, minus_peak = load_peaks(peaks, place, columns, C)
    numerator, denominator = _read_half(plus, scale, states, keys, plus_peak, place, columns, value_columns, C)
    if C.HALVES == 2:
        more, more_keys = _read_half(minus, scale, states, keys, minus_peak, place + C.WIDTH, columns, value_columns, C)
        numerator, denominator = numerator + more, denominator + more_keys
    return numerator, denominator


@triton.jit
def _attend_exactly(x, q_matrix, q_shift, k, v, k_weight, k_bias, head, mask, states, state_keys, peaks, place, start,
                    first, end, k_row, v_row, dims, columns, value_columns, C: tl.constexpr):  # fmt: skip
    """The numerators, denominators and scales of queries [rows dims], summed pair by pair within their block."""
    rows = first + tl.arange(0, C.CHUNK)
    plus, minus = map_features(x, q_matrix, q_shift, columns, C)
    plus_peak, minus_peak = load_peaks(peaks, place, columns, C)
    scale = query_scale(plus, minus, plus_peak, minus_peak, C)
    matrix, shift = load_map(k_weight, k_bias, head, dims, columns, C)
    for key_first in range(start, first + C.CHUNK, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, key_rows, end, C.HAS_MASK)
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :]
        keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        k_logs, _ = map_features(keys, matrix, shift, columns, C)
        scale = highest_log(plus, k_logs, columns, visible, scale, C)
    numerator, denominator = read_states(plus, minus, scale, states, state_keys, peaks, place, columns, value_columns,
                                         C)  # fmt: skip
    for key_first in range(start, first + C.CHUNK, C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, key_rows, end, C.HAS_MASK)
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :]
        keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        k_logs, _ = map_features(keys, matrix, shift, columns, C)
        scores = exact_scores(plus, k_logs, columns, visible, scale, C)
        values = load_values(v, key_rows, value_columns, v_row, end, keep, C.VALUES, C.OPERAND, C.HAS_MASK)
        numerator += tl.dot(scores.to(C.OPERAND), values, input_precision=C.PRECISION)
        denominator += tl.sum(scores, 1)
    return numerator, denominator, scale


@triton.jit
def any_lost(denominator, scale, rows, end):
    """Whether terms of a row that sees a key may have underflowed after the shift."""
    lost = (denominator < LOST) & (scale > EMPTY_LOG / 2) & (rows < end)
    return tl.max(lost.to(tl.int32), 0) > 0


@triton.jit
def any_towers(plus, minus, plus_peak, minus_peak, norm, rows, end, C: tl.constexpr):
    """Whether a row's shifted exponent exceeds its norm by more than `TOWERING`, so that its terms would underflow."""
    scale = query_scale(plus, minus, plus_peak, minus_peak, C)
    return tl.max(((scale - norm > TOWERING) & (rows < end)).to(tl.int32), 0) > 0


@triton.jit
def finish(numerator, denominator, scale, output, norms, rows, value_columns, row_stride, end, eps, tile,
           C: tl.constexpr):  # fmt: skip
    """Divides, and stores outputs and norms, which `attend` describes.

    A row without keys gives zero; with LOG and NORMALIZE its norm is 1e30.
    """
    if C.NORMALIZE:
        if C.LOG:
            seen = denominator > 0
            numerator /= tl.where(seen, denominator, 1.0)[:, None]
            norm = tl.where(seen, scale + tl.log(tl.where(seen, denominator, 1.0)), -EMPTY_LOG)
        else:
            norm = denominator + eps
            numerator /= norm[:, None]
    else:
        norm = tl.full(rows.shape, 1.0, tl.float32)
        if C.LOG:
            numerator *= tl.exp(scale)[:, None]
            norm = tl.zeros(rows.shape, tl.float32)
    store_tile(output, numerator, rows, value_columns, row_stride, end, C.VALUES)
    if tile == 0:
        tl.store(norms + rows, norm, mask=rows < end)


@triton.jit
def attend(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, blocks, states, state_keys, peaks_before, peaks_through,
           output, norms, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch, o_batch,
           o_head, o_row, tokens, groups, eps, C: tl.constexpr):  # fmt: skip
    """Outputs, and each row's norm: its denominator plus eps, or with LOG the logarithm of its denominator.

    Without NORMALIZE the output is the numerator, and the norm 1 (0 with LOG).
    Grid: blocks · chunks in a block, query heads, tiles of values.
    """
    batch, start, first, end, state = locate_chunk(blocks, C)
    if first >= end:
        return
    head, tile, heads = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(1)
    kv_head, kv_heads = head // groups, heads // groups
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    rows = first + tl.arange(0, C.CHUNK)
    k, v = k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head
    mask += batch * mask_batch
    q += batch * q_batch + head * q_head
    matrix, shift = load_map(q_weight, q_bias, head, dims, columns, C)
    x = load_tile(q, rows, dims, q_row, end, C.DIM, C.OPERAND)
    plus, minus = map_features(x, matrix, shift, columns, C)
    place = (state * kv_heads + kv_head) * (C.HALVES * C.WIDTH)
    plus_peak, minus_peak = load_peaks(peaks_through, place, columns, C)
    scale = query_scale(plus, minus, plus_peak, minus_peak, C)
    numerator, denominator = read_states(plus, minus, scale, states, state_keys, peaks_before, place, columns,
                                         value_columns, C)  # fmt: skip
    if C.CAUSAL:
        q_plus = shifted(plus, plus_peak[:, None] - scale[None, :], C.LOG).to(C.OPERAND)
        q_minus = shifted(minus, minus_peak[:, None] - scale[None, :], C.LOG).to(C.OPERAND)
        matrix, shift = load_map(k_weight, k_bias, kv_head, dims, columns, C)
        for key_first in range(start, first + C.CHUNK, C.CHUNK):
            key_rows = key_first + tl.arange(0, C.CHUNK)
            keep = load_keep(mask, key_rows, end, C.HAS_MASK)
            keys = load_values(k, key_rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
            k_plus, k_minus = map_features(keys, matrix, shift, columns, C)
            k_plus = shifted(k_plus, -plus_peak[:, None], C.LOG).to(C.OPERAND)
            scores = tl.dot(tl.trans(q_plus), k_plus, input_precision=C.PRECISION)
            if C.HALVES == 2:
                k_minus = shifted(k_minus, -minus_peak[:, None], C.LOG).to(C.OPERAND)
                scores += tl.dot(tl.trans(q_minus), k_minus, input_precision=C.PRECISION)
            scores = tl.where((rows[:, None] >= key_rows[None, :]) & keep[None, :], scores, 0.0)
            values = load_values(v, key_rows, value_columns, v_row, end, keep, C.VALUES, C.OPERAND, C.HAS_MASK)
            numerator += tl.dot(scores.to(C.OPERAND), values, input_precision=C.PRECISION)
            denominator += tl.sum(scores, 1)
        if C.LOG:
            if any_lost(denominator, scale, rows, end):
                x = load_tile(q, rows, dims, q_row, end, C.DIM, C.OPERAND)
                matrix, shift = load_map(q_weight, q_bias, head, dims, columns, C)
                numerator, denominator, scale = _attend_exactly(
                    x, matrix, shift, k, v, k_weight, k_bias, kv_head, mask, states, state_keys, peaks_before, place,
                    start, first, end, k_row, v_row, dims, columns, value_columns, C)  # fmt: skip
    finish(numerator, denominator, scale, output + batch * o_batch + head * o_head,
           norms + (batch * heads + head) * tokens, rows, value_columns, o_row, end, eps, tile, C)  # fmt: skip
