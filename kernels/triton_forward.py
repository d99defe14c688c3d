"""Triton kernel for the outputs of linear attention with Hedgehog's map inside, the second of two passes.

After `triton_states.scan_keys` every chunk of queries is a program of its own, which reads the sums over the keys
before its block and attends to the keys of its block.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from .triton_exact import exact_scores, highest_log
from .triton_features import EMPTY_LOG, load_keep, load_map, load_tile, map_features, store_tile
from .triton_states import load_peaks, load_vector, shifted

LOST = tl.constexpr(1e-20)
"""A row's shifted denominator below which its terms may have been lost: float32 holds them to 1e-38."""


@triton.jit
def query_scale(plus, minus, plus_peak, minus_peak, HALVES: tl.constexpr, LOG: tl.constexpr):
    """Gives the largest log feature [rows] of queries over the keys' shift, which is taken off; zeros without LOG."""
    scale = tl.zeros((plus.shape[0],), tl.float32)
    if LOG:
        scale = tl.max(tl.maximum(plus + plus_peak[None, :], EMPTY_LOG), 1)
        if HALVES == 2:
            scale = tl.maximum(scale, tl.max(tl.maximum(minus + minus_peak[None, :], EMPTY_LOG), 1))
    return scale


@triton.jit
def read_state(features, states, keys, place, columns, value_columns, WIDTH: tl.constexpr, VALUES: tl.constexpr,
               OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives what queries [rows columns] read from one half of a state: [rows values], and the denominator's part."""
    state = load_tile(states + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, OPERAND)
    sums = load_vector(keys + place, columns, WIDTH, 0.0)
    return tl.dot(features.to(OPERAND), state, input_precision=PRECISION), tl.sum(features * sums[None, :], 1)


@triton.jit
def locate_chunk(blocks, CAUSAL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Gives the batch entry, the block's first token, the chunk's, the sequence's end, and the place of the state."""
    block = (tl.program_id(0) // (BLOCK // CHUNK)).to(tl.int64)
    batch = tl.load(blocks + block * 4).to(tl.int64)
    start, end = tl.load(blocks + block * 4 + 1), tl.load(blocks + block * 4 + 2)
    state = block
    if not CAUSAL:
        state = tl.load(blocks + block * 4 + 3).to(tl.int64)
    return batch, start, start + (tl.program_id(0) % (BLOCK // CHUNK)) * CHUNK, end, state


@triton.jit
def read_states(plus, minus, scale, states, keys, peaks, place, columns, value_columns, WIDTH: tl.constexpr,
                VALUES: tl.constexpr, HALVES: tl.constexpr, LOG: tl.constexpr, OPERAND: tl.constexpr,
                PRECISION: tl.constexpr):  # fmt: skip
    """Gives what queries read from a state: numerators [rows values] and denominators [rows]."""
    plus_peak, minus_peak = load_peaks(peaks, place, columns, WIDTH, HALVES, LOG)
    plus = shifted(plus, plus_peak[None, :] - scale[:, None], LOG)
    numerator, denominator = read_state(plus, states, keys, place, columns, value_columns, WIDTH, VALUES, OPERAND,
                                        PRECISION)  # fmt: skip
    if HALVES == 2:
        minus = shifted(minus, minus_peak[None, :] - scale[:, None], LOG)
        more, more_keys = read_state(minus, states, keys, place + WIDTH, columns, value_columns, WIDTH, VALUES,
                                     OPERAND, PRECISION)  # fmt: skip
        numerator, denominator = numerator + more, denominator + more_keys
    return numerator, denominator


@triton.jit
def attend_to_block(numerator, denominator, plus, minus, plus_peak, minus_peak, k, v, weight, bias, mask, start, first,
                    end, k_row, v_row, dims, columns, value_columns,
                    DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                    MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
                    CHUNK: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Adds what the queries' features [rows columns] read from the keys of their block."""
    rows = first + tl.arange(0, CHUNK)
    matrix, shift = load_map(weight, bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    for key_first in range(start, first + CHUNK, CHUNK):
        key_rows = key_first + tl.arange(0, CHUNK)
        keep = load_keep(mask, key_rows, end, HAS_MASK)
        keys = load_tile(k, key_rows, dims, k_row, end, DIM, OPERAND)
        k_plus, k_minus = map_features(keys, matrix, shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
        scores = chunk_scores(plus, minus, k_plus, k_minus, plus_peak, minus_peak, HALVES, LOG, OPERAND, PRECISION)
        scores = tl.where((rows[:, None] >= key_rows[None, :]) & keep[None, :], scores, 0.0)
        values = load_values(v, key_rows, value_columns, v_row, end, keep, VALUES, OPERAND)
        numerator += tl.dot(scores.to(OPERAND), values, input_precision=PRECISION)
        denominator += tl.sum(scores, 1)
    return numerator, denominator


@triton.jit
def chunk_scores(plus, minus, k_plus, k_minus, plus_peak, minus_peak, HALVES: tl.constexpr, LOG: tl.constexpr,
                 OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives φ(q)·φ(k) [rows keys] of queries' features and keys' (log) features over the same shift."""
    k_plus = shifted(k_plus, -plus_peak[None, :], LOG).to(OPERAND)
    scores = tl.dot(plus, tl.trans(k_plus), input_precision=PRECISION)
    if HALVES == 2:
        k_minus = shifted(k_minus, -minus_peak[None, :], LOG).to(OPERAND)
        scores += tl.dot(minus, tl.trans(k_minus), input_precision=PRECISION)
    return scores


@triton.jit
def load_values(v, rows, columns, row_stride, end, keep, VALUES: tl.constexpr, OPERAND: tl.constexpr):
    """Gives values [rows columns], zero where a token is padding, whatever stood there."""
    values = load_tile(v, rows, columns, row_stride, end, VALUES, OPERAND)
    return tl.where(keep[:, None], values, 0.0).to(OPERAND)


@triton.jit
def _highest_in_block(scale, x, k, q_weight, q_bias, k_weight, k_bias, mask, start, first, end, k_row, dims,
                      DIM: tl.constexpr, WIDTH: tl.constexpr, HALVES: tl.constexpr, MAP: tl.constexpr,
                      HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    rows = first + tl.arange(0, CHUNK)
    for key_first in range(start, first + CHUNK, CHUNK):
        key_rows = key_first + tl.arange(0, CHUNK)
        keys = load_tile(k, key_rows, dims, k_row, end, DIM, tl.float32)
        visible = (rows[:, None] >= key_rows[None, :]) & load_keep(mask, key_rows, end, HAS_MASK)[None, :]
        scale = highest_log(x, keys, q_weight, q_bias, k_weight, k_bias, dims, visible, scale, DIM, WIDTH, HALVES, MAP,
                            HAS_BIAS)  # fmt: skip
    return scale


@triton.jit
def attend_to_block_exactly(numerator, denominator, scale, x, k, v, q_weight, q_bias, k_weight, k_bias, mask, start,
                            first, end, k_row, v_row, dims, value_columns,
                            DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                            MAP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CHUNK: tl.constexpr,
                            OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Adds what queries [rows dims] read from the keys of their block, pair by pair over the rows' own `scale`."""
    rows = first + tl.arange(0, CHUNK)
    for key_first in range(start, first + CHUNK, CHUNK):
        key_rows = key_first + tl.arange(0, CHUNK)
        keep = load_keep(mask, key_rows, end, HAS_MASK)
        keys = load_tile(k, key_rows, dims, k_row, end, DIM, tl.float32)
        visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :]
        scores = exact_scores(x, keys, q_weight, q_bias, k_weight, k_bias, dims, visible, scale, DIM, WIDTH, HALVES,
                              MAP, HAS_BIAS)  # fmt: skip
        values = load_values(v, key_rows, value_columns, v_row, end, keep, VALUES, OPERAND)
        numerator += tl.dot(scores.to(OPERAND), values, input_precision=PRECISION)
        denominator += tl.sum(scores, 1)
    return numerator, denominator


@triton.jit
def any_lost(denominator, scale, rows, end):
    """Tells whether a row that sees a key may have lost its terms under the shift."""
    lost = (denominator < LOST) & (scale > EMPTY_LOG / 2) & (rows < end)
    return tl.max(lost.to(tl.int32), 0) > 0


@triton.jit
def finish(numerator, denominator, scale, output, norms, rows, value_columns, row_stride, end, eps, tile,
           VALUES: tl.constexpr, LOG: tl.constexpr, NORMALIZE: tl.constexpr):  # fmt: skip
    """Divides, and stores outputs and norms. A row that sees no key gives zero, and with LOG a norm of 1e30."""
    if NORMALIZE:
        if LOG:
            seen = denominator > 0
            numerator /= tl.where(seen, denominator, 1.0)[:, None]
            norm = tl.where(seen, scale + tl.log(tl.where(seen, denominator, 1.0)), -EMPTY_LOG)
        else:
            norm = denominator + eps
            numerator /= norm[:, None]
    else:
        norm = tl.full(rows.shape, 1.0, tl.float32)
        if LOG:
            numerator *= tl.exp(scale)[:, None]
            norm = tl.zeros(rows.shape, tl.float32)
    store_tile(output, numerator, rows, value_columns, row_stride, end, VALUES)
    if tile == 0:
        tl.store(norms + rows, norm, mask=rows < end)


@triton.jit
def attend(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, blocks, states, state_keys, peaks_before, peaks_through,
           output, norms, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch,
           o_batch, o_head, o_row, tokens, groups, eps,
           DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr, MAP: tl.constexpr,
           LOG: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAUSAL: tl.constexpr,
           NORMALIZE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr, BW: tl.constexpr,
           BV: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gives outputs, and each row's norm: its denominator, or with LOG the denominator's logarithm.

    Without NORMALIZE the output is the numerator and the norm 1 (0 with LOG).
    Grid: blocks · chunks in a block, query heads, tiles of values.
    """
    batch, start, first, end, state = locate_chunk(blocks, CAUSAL, BLOCK, CHUNK)
    if first >= end:
        return
    head, tile, heads = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(1)
    kv_head, kv_heads = head // groups, heads // groups
    dims, columns, value_columns = tl.arange(0, BD), tl.arange(0, BW), tile * BV + tl.arange(0, BV)
    rows = first + tl.arange(0, CHUNK)
    q_weight, q_bias = q_weight + head * DIM * WIDTH, q_bias + head * WIDTH
    k_weight, k_bias = k_weight + kv_head * DIM * WIDTH, k_bias + kv_head * WIDTH
    k, v = k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head
    mask += batch * mask_batch
    matrix, shift = load_map(q_weight, q_bias, dims, columns, DIM, WIDTH, MAP, HAS_BIAS, OPERAND)
    x = load_tile(q + batch * q_batch + head * q_head, rows, dims, q_row, end, DIM, OPERAND)
    plus, minus = map_features(x, matrix, shift, columns, WIDTH, HALVES, MAP, LOG, PRECISION)
    place = (state * kv_heads + kv_head) * (HALVES * WIDTH)
    plus_peak, minus_peak = load_peaks(peaks_through, place, columns, WIDTH, HALVES, LOG)
    scale = query_scale(plus, minus, plus_peak, minus_peak, HALVES, LOG)
    numerator, denominator = read_states(plus, minus, scale, states, state_keys, peaks_before, place, columns,
                                         value_columns, WIDTH, VALUES, HALVES, LOG, OPERAND, PRECISION)  # fmt: skip
    if CAUSAL:
        q_plus = shifted(plus, plus_peak[None, :] - scale[:, None], LOG).to(OPERAND)
        q_minus = shifted(minus, minus_peak[None, :] - scale[:, None], LOG).to(OPERAND)
        numerator, denominator = attend_to_block(
            numerator, denominator, q_plus, q_minus, plus_peak, minus_peak, k, v, k_weight, k_bias, mask, start, first,
            end, k_row, v_row, dims, columns, value_columns, DIM, WIDTH, VALUES, HALVES, MAP, LOG, HAS_BIAS, HAS_MASK,
            CHUNK, OPERAND, PRECISION)  # fmt: skip
        if LOG:
            if any_lost(denominator, scale, rows, end):
                plus_peak, minus_peak = load_peaks(peaks_before, place, columns, WIDTH, HALVES, LOG)
                scale = query_scale(plus, minus, plus_peak, minus_peak, HALVES, LOG)
                scale = _highest_in_block(scale, x.to(tl.float32), k, q_weight, q_bias, k_weight, k_bias, mask, start,
                                          first, end, k_row, dims, DIM, WIDTH, HALVES, MAP, HAS_BIAS, HAS_MASK,
                                          CHUNK)  # fmt: skip
                numerator, denominator = read_states(plus, minus, scale, states, state_keys, peaks_before, place,
                                                     columns, value_columns, WIDTH, VALUES, HALVES, LOG, OPERAND,
                                                     PRECISION)  # fmt: skip
                numerator, denominator = attend_to_block_exactly(
                    numerator, denominator, scale, x.to(tl.float32), k, v, q_weight, q_bias, k_weight, k_bias, mask,
                    start, first, end, k_row, v_row, dims, value_columns, DIM, WIDTH, VALUES, HALVES, MAP, HAS_BIAS,
                    HAS_MASK, CHUNK, OPERAND, PRECISION)  # fmt: skip
    finish(numerator, denominator, scale, output + batch * o_batch + head * o_head,
           norms + (batch * heads + head) * tokens, rows, value_columns, o_row, end, eps, tile, VALUES, LOG,
           NORMALIZE)  # fmt: skip
