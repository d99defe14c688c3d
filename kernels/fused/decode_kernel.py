"""Triton kernel that decodes tokens one after another and updates the state in place.

A step reads and writes every number of the state once, so it takes about as long as a copy of the state.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.features import EMPTY_LOG, IDENTITY, load_tile, map_halves
from ..triton.states import load_sums, load_vector, store_sums


@triton.jit
def _token_features(x, weight, bias, columns, dims, C: tl.constexpr):
    """Both halves [columns] of one token's features, or of their logarithms, in float32."""
    if C.MAP == IDENTITY:
        y = load_vector(x, columns, C.WIDTH, 0.0)
    else:
        token = load_vector(x, dims, C.DIM, 0.0)
        matrix = load_tile(weight, dims, columns, C.WIDTH, C.DIM, C.WIDTH, tl.float32)
        y = tl.sum(token[:, None] * matrix, 0)
        if C.HAS_BIAS:
            y += load_vector(bias, columns, C.WIDTH, 0.0)
    return map_halves(y, columns < C.WIDTH, C)


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
                C: tl.constexpr):  # fmt: skip
    """The output [values] of one query, from the sums of both halves."""
    scale = 0.0
    if C.LOG:
        plus += plus_peak
        scale = tl.max(plus, 0)
        if C.HALVES == 2:
            minus += minus_peak
            scale = tl.maximum(scale, tl.max(minus, 0))
            minus = tl.exp(minus - scale)
        plus = tl.exp(plus - scale)
    numerator, denominator = tl.sum(plus[:, None] * plus_state, 0), tl.sum(plus * plus_keys, 0)
    if C.HALVES == 2:
        numerator += tl.sum(minus[:, None] * minus_state, 0)
        denominator += tl.sum(minus * minus_keys, 0)
    if C.NORMALIZE:
        if C.LOG:
            numerator /= tl.where(denominator > 0, denominator, 1.0)
        else:
            numerator /= denominator + eps
    elif C.LOG:
        numerator *= tl.exp(scale)
    return numerator


@triton.jit
def decode_tokens(q, k, v, q_weight, q_bias, k_weight, k_bias, initial, initial_keys, initial_peaks, new_state,
                  new_keys, new_peaks, output, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
                  o_batch, o_head, o_row, tokens, groups, eps, C: tl.constexpr):  # fmt: skip
    """Adds each token's key to the state, then reads the state with its queries.

    `new_state` may be `initial`, as each program reads and writes only its own columns of values. `new_keys` and
    `new_peaks` must not be `initial_keys` and `initial_peaks`, which all programs of a head read.
    Grid: batch, kv heads, tiles of values.
    """
    batch, kv_head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    kv_heads = tl.num_programs(1)
    q_row, k_row = tl.cast(q_row, tl.int64), tl.cast(k_row, tl.int64)
    v_row, o_row = tl.cast(v_row, tl.int64), tl.cast(o_row, tl.int64)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    real_values = value_columns < C.VALUES
    place = (batch * kv_heads + kv_head) * (C.HALVES * C.WIDTH)
    plus_state, plus_keys, plus_peak, minus_state, minus_keys, minus_peak = load_sums(
        initial, initial_keys, initial_peaks, place, columns, value_columns, C, True)  # fmt: skip
    for token in range(tokens):
        value = tl.load(v + batch * v_batch + kv_head * v_head + token * v_row + value_columns, mask=real_values,
                        other=0.0).to(tl.float32)  # fmt: skip
        plus, minus = _token_features(k + batch * k_batch + kv_head * k_head + token * k_row,
                                      k_weight + kv_head * C.DIM * C.WIDTH, k_bias + kv_head * C.WIDTH, columns, dims,
                                      C)  # fmt: skip
        plus_state, plus_keys, plus_peak = _add_token(plus, value, plus_state, plus_keys, plus_peak, C.LOG)
        if C.HALVES == 2:
            minus_state, minus_keys, minus_peak = _add_token(minus, value, minus_state, minus_keys, minus_peak, C.LOG)
        for group in range(groups):
            head = kv_head * groups + group
            plus, minus = _token_features(q + batch * q_batch + head * q_head + token * q_row,
                                          q_weight + head * C.DIM * C.WIDTH, q_bias + head * C.WIDTH, columns, dims,
                                          C)  # fmt: skip
            read = _read_token(plus, minus, plus_state, minus_state, plus_keys, minus_keys, plus_peak, minus_peak, eps,
                               C)  # fmt: skip
            tl.store(output + batch * o_batch + head * o_head + token * o_row + value_columns,
                     read.to(output.dtype.element_ty), mask=real_values)  # fmt: skip
    store_sums(new_state, new_keys, new_peaks, place, columns, value_columns, tile, (plus_state, plus_keys, plus_peak),
               (minus_state, minus_keys, minus_peak), C, C.LOG)  # fmt: skip
