"""Triton kernel that decodes tokens one after another and updates the state in place.

A step reads and writes every number of the state once, so it takes about as long as a copy of the state. A program has
all of one head's state, so nothing is read twice and all of it can be changed in place.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.features import load_map, load_tile, load_vector, map_halves, only_real, store_tile


@triton.jit
def _token_features(x, weight, bias, head, columns, dims, C: tl.constexpr):
    """Both halves [columns] of one token's features, or of their logarithms, in float32."""
    if C.MAP == "identity":
        y = load_vector(x, columns, C.WIDTH, 0.0)[None, :]
    else:
        matrix, shift = load_map((weight, bias), head, dims, columns, C)
        y = (tl.sum(load_vector(x, dims, C.DIM, 0.0)[:, None] * matrix.to(tl.float32), 0) + shift)[None, :]
    if C.LOG:
        plus, minus = only_real(y, columns, -1e30, C), only_real(-y, columns, -1e30, C)
    else:
        plus, minus = map_halves(y, tl.full((1,), 1, tl.int1), 0.0, columns, C)
    return tl.sum(plus, 0), tl.sum(minus, 0)


@triton.jit
def _add_token(features, value, state, keys, peak, LOG: tl.constexpr):
    """Adds one key to one half of the sums."""
    if LOG:
        grown = tl.maximum(peak, features)
        kept = tl.exp(peak - grown)
        state, keys = state * kept[:, None], keys * kept
        features = tl.where(features > -5e29, tl.exp(features - grown), 0.0)
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
def _read_half(sums, vectors, peaks, place, columns, value_columns, C: tl.constexpr):
    total = load_tile(sums + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, tl.float32)
    vector, peak = load_vector(vectors + place, columns, C.WIDTH, 0.0), tl.zeros(columns.shape, tl.float32)
    if C.LOG:
        peak = load_vector(peaks + place, columns, C.WIDTH, -1e30)
    return total, vector, peak


@triton.jit
def _write_vectors(vectors, peaks, place, vector, peak, columns, C: tl.constexpr):
    tl.store(vectors + place + columns, vector, mask=columns < C.WIDTH)
    if C.LOG:
        tl.store(peaks + place + columns, peak, mask=columns < C.WIDTH)


@triton.jit(do_not_specialize=["tokens"])
def decode_tokens(q, k, v, q_weight, q_bias, k_weight, k_bias, initial, initial_keys, initial_peaks, new_state,
                  new_keys, new_peaks, output, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
                  o_batch, o_head, o_row, tokens, eps, C: tl.constexpr):  # fmt: skip
    """Adds each token's key to the state, then reads the state with its queries.

    The new state may be the initial one. A state of more values than BV is changed a tile after another.
    Grid: batch, kv heads.
    """
    batch, kv_head, kv_heads = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    q_row, k_row = tl.cast(q_row, tl.int64), tl.cast(k_row, tl.int64)
    v_row, o_row = tl.cast(v_row, tl.int64), tl.cast(o_row, tl.int64)
    dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
    place = (batch * kv_heads + kv_head) * C.FEATURES
    q, k, v = q + batch * q_batch, k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head
    for value_first in range(0, C.VALUES, C.BV):
        value_columns = value_first + tl.arange(0, C.BV)
        real = value_columns < C.VALUES
        state, keys, peak = _read_half(initial, initial_keys, initial_peaks, place, columns, value_columns, C)
        other, other_keys, other_peak = state, keys, peak
        if C.HALVES == 2:
            other, other_keys, other_peak = _read_half(initial, initial_keys, initial_peaks, place + C.WIDTH, columns,
                                                       value_columns, C)  # fmt: skip
        for token in range(tokens):
            value = tl.load(v + token * v_row + value_columns, mask=real, other=0.0).to(tl.float32)
            plus, minus = _token_features(k + token * k_row, k_weight, k_bias, kv_head, columns, dims, C)
            state, keys, peak = _add_token(plus, value, state, keys, peak, C.LOG)
            if C.HALVES == 2:
                other, other_keys, other_peak = _add_token(minus, value, other, other_keys, other_peak, C.LOG)
            for group in range(C.GROUPS):
                head = kv_head * C.GROUPS + group
                plus, minus = _token_features(q + head * q_head + token * q_row, q_weight, q_bias, head, columns, dims,
                                              C)  # fmt: skip
                read = _read_token(plus, minus, state, other, keys, other_keys, peak, other_peak, eps, C)
                tl.store(output + batch * o_batch + head * o_head + token * o_row + value_columns,
                         read.to(output.dtype.element_ty), mask=real)  # fmt: skip
        store_tile(new_state + place * C.VALUES, state, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES)
        if C.HALVES == 2:
            store_tile(new_state + (place + C.WIDTH) * C.VALUES, other, columns, value_columns, C.VALUES, C.WIDTH,
                       C.VALUES)  # fmt: skip
        if value_first + C.BV >= C.VALUES:
            _write_vectors(new_keys, new_peaks, place, keys, peak, columns, C)
            if C.HALVES == 2:
                _write_vectors(new_keys, new_peaks, place + C.WIDTH, other_keys, other_peak, columns, C)
