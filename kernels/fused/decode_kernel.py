"""Triton kernel that decodes tokens one after another, the state in place.

A step reads and writes every number of the state once: its time is that of a copy of the state.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from ..triton.features import EMPTY_LOG, IDENTITY, SOFTMAX, SOFTMAX_JOINT, load_tile
from ..triton.states import load_peaks, load_vector, store_sums


@triton.jit
def _token_features(x, weight, bias, columns, dims, DIM: tl.constexpr, WIDTH: tl.constexpr, HALVES: tl.constexpr,
                    MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    """Both halves [columns] of one token's features, in float32, or their logarithms."""
    real = columns < WIDTH
    if MAP == IDENTITY:
        y = load_vector(x, columns, WIDTH, 0.0)
    else:
        token = load_vector(x, dims, DIM, 0.0)
        matrix = load_tile(weight, dims, columns, WIDTH, DIM, WIDTH, tl.float32)
        y = tl.sum(token[:, None] * matrix, 0)
        if HAS_BIAS:
            y += load_vector(bias, columns, WIDTH, 0.0)
    if LOG:
        plus = tl.where(real, y, EMPTY_LOG)
        minus = tl.where(real, -y, EMPTY_LOG)
    elif MAP == IDENTITY:
        plus = y
        minus = y
    else:
        if MAP == SOFTMAX_JOINT:
            y *= 2.0
        top = tl.max(tl.where(real, y, EMPTY_LOG), 0)
        bottom = tl.max(tl.where(real, -y, EMPTY_LOG), 0)
        if MAP == SOFTMAX_JOINT and HALVES == 2:
            top = tl.maximum(top, bottom)
            bottom = top
        plus = tl.where(real, tl.exp(y - top), 0.0)
        minus = tl.where(real, tl.exp(-y - bottom), 0.0)
        if MAP == SOFTMAX:
            plus /= tl.sum(plus, 0)
            minus /= tl.sum(minus, 0)
        elif MAP == SOFTMAX_JOINT:
            total = tl.sum(plus, 0)
            if HALVES == 2:
                total += tl.sum(minus, 0)
            plus /= total
            minus /= total
    return plus, minus


@triton.jit
def _add_token(features, value, state, keys, peak, LOG: tl.constexpr):
    """Adds one key to one half of the sums."""
    if LOG:
        grown = tl.maximum(peak, features)
        kept = tl.exp(peak - grown)
        state, keys = state * kept[:, None], keys * kept
        features = tl.where(features > EMPTY_LOG / 2, tl.exp(features - grown), 0.0)
        peak = grown
    return state + features[:, None] * value[None, :], keys + features, peak


@triton.jit
def _read_token(plus, minus, plus_state, minus_state, plus_keys, minus_keys, plus_peak, minus_peak, eps,
                HALVES: tl.constexpr, LOG: tl.constexpr, NORMALIZE: tl.constexpr):  # fmt: skip
    """The output [values] of one query, read from the sums."""
    scale = 0.0
    if LOG:
        plus += plus_peak
        scale = tl.max(plus, 0)
        if HALVES == 2:
            minus += minus_peak
            scale = tl.maximum(scale, tl.max(minus, 0))
            minus = tl.exp(minus - scale)
        plus = tl.exp(plus - scale)
    numerator, denominator = tl.sum(plus[:, None] * plus_state, 0), tl.sum(plus * plus_keys, 0)
    if HALVES == 2:
        numerator += tl.sum(minus[:, None] * minus_state, 0)
        denominator += tl.sum(minus * minus_keys, 0)
    if NORMALIZE:
        if LOG:
            numerator /= tl.where(denominator > 0, denominator, 1.0)
        else:
            numerator /= denominator + eps
    elif LOG:
        numerator *= tl.exp(scale)
    return numerator


@triton.jit
def decode_tokens(q, k, v, q_weight, q_bias, k_weight, k_bias, initial, initial_keys, initial_peaks, new_state,
                  new_keys, new_peaks, output,
                  q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
                  tokens, groups, eps,
                  DIM: tl.constexpr, WIDTH: tl.constexpr, VALUES: tl.constexpr, HALVES: tl.constexpr,
                  MAP: tl.constexpr, LOG: tl.constexpr, HAS_BIAS: tl.constexpr, NORMALIZE: tl.constexpr,
                  BD: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """Adds each token's key to the state, then reads the state with its queries.

    `new_state` may be `initial` itself, as a program touches only its own columns; the vectors are read by all programs
    of a head, so `new_keys` and `new_peaks` lie elsewhere.
    Grid: batch, kv heads, tiles of values.
    """
    batch, kv_head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    kv_heads = tl.num_programs(1)
    q_row, k_row = tl.cast(q_row, tl.int64), tl.cast(k_row, tl.int64)
    v_row, o_row = tl.cast(v_row, tl.int64), tl.cast(o_row, tl.int64)
    dims, columns, value_columns = tl.arange(0, BD), tl.arange(0, BW), tile * BV + tl.arange(0, BV)
    real_values = value_columns < VALUES
    place = (batch * kv_heads + kv_head) * (HALVES * WIDTH)
    plus_state = load_tile(initial + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, tl.float32)
    plus_keys = load_vector(initial_keys + place, columns, WIDTH, 0.0)
    plus_peak, minus_peak = load_peaks(initial_peaks, place, columns, WIDTH, HALVES, LOG)
    minus_state, minus_keys = plus_state, plus_keys
    if HALVES == 2:
        minus_state = load_tile(initial + (place + WIDTH) * VALUES, columns, value_columns, VALUES, WIDTH, VALUES,
                                tl.float32)  # fmt: skip
        minus_keys = load_vector(initial_keys + place + WIDTH, columns, WIDTH, 0.0)
    for token in range(tokens):
        value = tl.load(v + batch * v_batch + kv_head * v_head + token * v_row + value_columns, mask=real_values,
                        other=0.0).to(tl.float32)  # fmt: skip
        plus, minus = _token_features(k + batch * k_batch + kv_head * k_head + token * k_row,
                                      k_weight + kv_head * DIM * WIDTH, k_bias + kv_head * WIDTH, columns, dims, DIM,
                                      WIDTH, HALVES, MAP, LOG, HAS_BIAS)  # fmt: skip
        plus_state, plus_keys, plus_peak = _add_token(plus, value, plus_state, plus_keys, plus_peak, LOG)
        if HALVES == 2:
            minus_state, minus_keys, minus_peak = _add_token(minus, value, minus_state, minus_keys, minus_peak, LOG)
        for group in range(groups):
            head = kv_head * groups + group
            plus, minus = _token_features(q + batch * q_batch + head * q_head + token * q_row,
                                          q_weight + head * DIM * WIDTH, q_bias + head * WIDTH, columns, dims, DIM,
                                          WIDTH, HALVES, MAP, LOG, HAS_BIAS)  # fmt: skip
            read = _read_token(plus, minus, plus_state, minus_state, plus_keys, minus_keys, plus_peak, minus_peak, eps,
                               HALVES, LOG, NORMALIZE)  # fmt: skip
            tl.store(output + batch * o_batch + head * o_head + token * o_row + value_columns,
                     read.to(output.dtype.element_ty), mask=real_values)  # fmt: skip
    store_sums(new_state, new_keys, new_peaks, place, columns, value_columns, tile, plus_state, plus_keys, plus_peak,
               WIDTH, VALUES, LOG)  # fmt: skip
    if HALVES == 2:
        store_sums(new_state, new_keys, new_peaks, place + WIDTH, columns, value_columns, tile, minus_state, minus_keys,
                   minus_peak, WIDTH, VALUES, LOG)  # fmt: skip
