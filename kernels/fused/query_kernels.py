"""Triton kernels for the gradients of linear attention with Hedgehog's map inside.

Of the forward pass the output, each row's norm and the sums of the segments are kept; features are computed again. With
s the scores, and g and h the gradients of a row's numerator and denominator (`row_gradients`),

    ds_ij = g_i·v_j + h_i,   dφ(q_i) = Σ_j ds_ij φ(k_j),   dφ(k_j) = Σ_i ds_ij φ(q_i),   dv_j = Σ_i s_ij g_i.

Here are the kernels for queries. A walk through each segment gives their gradients, from the sums over the keys before
a chunk; then the sums over the queries of each segment are computed for the walk of the keys. In the names, `given` is
g, `pull` is h and `slopes` is ds. In log space a walk is repeated like the forward one if a key is not tame.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton.exact import exact_gradient
from ..triton.features import (
    add_to_map,
    filled,
    load_keys,
    load_map,
    load_tile,
    map_gradient,
    map_halves,
    no_gradient,
    only_real,
    project,
    row_of,
    store_tile,
    through_map,
)
from ..triton.states import (
    load_row_gradients,
    locate,
    operand_of,
    peaks_before,
    row_gradients,
    spread,
    wildness,
    write_halves,
)
from .forward_kernels import absorb, absorb_halves, key_features, sums_at_start


@triton.jit
def through_state(given, pull, total, unit, C: tl.constexpr):
    """The gradient [rows columns] of features that were multiplied with one half of a sum."""
    grad = tl.dot(given, tl.trans(total.to(C.OPERAND)), input_precision=C.PRECISION)
    return tl.dot(pull, tl.trans(operand_of(unit, C)), grad, input_precision=C.PRECISION)


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "slots_before", "mask_batch"])
def query_walk(q, k, v, output, grad, q_weight, q_bias, k_weight, k_bias, mask, ends, initial, initial_keys,
               initial_peaks, sums, key_sums, peaks, norms, pulls, grad_x, grad_weight, grad_bias, q_batch, q_head,
               q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch, o_batch, o_head, o_row, grad_batch,
               grad_head, grad_row, dx_batch, dx_head, dx_row, tokens, span, segments, sequences, slots_before,
               C: tl.constexpr):  # fmt: skip
    """The gradient of q, each program's share of those of W and b, and with NORMALIZE o·do of each row for `key_walk`.

    Grid: slots after `slots_before`, query heads.
    """
    here = locate(slots_before + tl.program_id(0), ends, tokens, span, segments, sequences, C)
    batch, head, heads = here[1], tl.program_id(1).to(tl.int64), tl.num_programs(1)
    kv_head, row_base = head // C.GROUPS, (batch * heads + head) * tokens
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    rows = (q + batch * q_batch + head * q_head, output + batch * o_batch + head * o_head,
            grad + batch * grad_batch + head * grad_head, norms + row_base, pulls + row_base,
            grad_x + batch * dx_batch + head * dx_head, q_row, o_row, grad_row, dx_row)  # fmt: skip
    wild, grad_map = C.TAME + 1, no_gradient(C)
    for EXACT in tl.static_range(1 + C.LOG):
        if wild > C.TAME:
            wild, grad_map = _query_walk(
                rows, keys, mask + batch * mask_batch, (q_weight, q_bias), (k_weight, k_bias),
                (initial, initial_keys, initial_peaks), (sums, key_sums, peaks), here, head, heads // C.GROUPS, EXACT,
                C)  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * heads + head
    add_to_map(grad_weight, grad_bias, place, grad_map, slots_before > 0, C)


@triton.jit
def _query_walk(queries, keys, mask, q_map, k_map, initial, segments, here, head, kv_heads, EXACT: tl.constexpr,
                C: tl.constexpr):  # fmt: skip
    q, output, grad, norms, pulls, grad_x, q_row, o_row, grad_row, dx_row = queries
    _sequence, _batch, start, stop, _end, _first, _slot, _last = here
    kv_head = head // C.GROUPS
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    halves, wild = sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, EXACT, C)
    highest = row_of(0.0, C.CHUNK) + wild
    q_map, k_map = load_map(q_map, head, dims, columns, C), load_map(k_map, kv_head, dims, columns, C)
    ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    grad_map = no_gradient(C)
    for row_first in range(start, stop, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        given = load_tile(grad, rows, value_columns, grad_row, stop, C.VALUES, tl.float32)
        if C.NORMALIZE:
            attended = load_tile(output, rows, value_columns, o_row, stop, C.VALUES, tl.float32)
            pull = tl.sum(given * attended, 1)
            tl.store(pulls + rows, pull, mask=rows < stop)
        else:
            pull = row_of(0.0, C.CHUNK)
        norm, given, pull = row_gradients(norms, pull, given, rows, stop, C)
        grad_plus = through_state(given, spread(pull, C), halves[0][0], halves[0][1], C)
        grad_minus = grad_plus
        if C.HALVES == 2:
            grad_minus = through_state(given, spread(pull, C), halves[1][0], halves[1][1], C)
        x = load_tile(q, rows, dims, q_row, stop, C.DIM, C.OPERAND)
        peak, other_peak = halves[0][2], halves[1][2]
        if C.CAUSAL:
            keep, _x, values, logs = load_keys(keys, mask, k_map, rows, stop, dims, value_columns, C)
            visible = (rows[:, None] >= rows[None, :]) & keep[None, :] & (rows < stop)[:, None]
            slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
            slopes = tl.where(visible, slopes, 0.0)
            plus, minus, highest = key_features(logs, keep, highest, columns, EXACT, C)
            if not EXACT:
                weights = slopes.to(C.OPERAND)
                grad_plus = tl.dot(weights, plus, grad_plus, input_precision=C.PRECISION)
                if C.HALVES == 2:
                    grad_minus = tl.dot(weights, minus, grad_minus, input_precision=C.PRECISION)
            halves = absorb_halves(halves, logs, plus, minus, keep, values, ones, columns, EXACT, C)
        y = project(x, q_map, C)
        q_plus, q_minus = query_weights(y, peak, other_peak, norm, rows < stop, columns, EXACT, C)
        grads = map_gradient(q_plus, q_minus, grad_plus, grad_minus, C)
        if EXACT and C.CAUSAL:
            grads += exact_gradient(y, logs, columns, visible, norm, slopes, False, C)
        grads, grad_map = through_map(x, grads, q_map, grad_map, C)
        store_tile(grad_x, grads, rows, dims, dx_row, stop, C.DIM)
    return tl.max(highest, 0), grad_map


@triton.jit
def query_weights(y, peak, other_peak, norm, keep, columns, EXACT: tl.constexpr, C: tl.constexpr):
    """Both halves of the queries' features; with LOG exp(log φ(q) + peak - norm), cut where no key is seen."""
    if C.LOG:
        base = tl.where(keep, norm, 1e30)[:, None]
        plus, minus = y - base, -y - base
        if EXACT:
            plus, minus = plus + peak[None, :], minus + other_peak[None, :]
        plus = only_real(tl.exp(tl.minimum(plus, 80.0)), columns, 0.0, C)
        minus = only_real(tl.exp(tl.minimum(minus, 80.0)), columns, 0.0, C)
    else:
        plus, minus = map_halves(y, keep, 0.0, columns, C)
    return plus, minus


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences"])
def sum_queries(q, grad, q_weight, q_bias, ends, initial_peaks, peaks, norms, pulls, query_sums, query_units, q_batch,
                q_head, q_row, grad_batch, grad_head, grad_row, tokens, span, segments, sequences,
                C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(q) gᵀ and Σ φ(q) h of a segment's queries, over the query heads of a kv head.

    With LOG, φ(q) here means exp(log φ(q) + peak - norm), with the peak before the segment (CAUSAL) or of the whole
    sequence, 0 if it is tame. With CAUSAL the sums of a sequence's first segment are left out.
    Grid: slots, kv heads, tiles of values.
    """
    sequence, batch, start, stop, end, first, slot, last = locate(
        tl.program_id(0), ends, tokens, span, segments, sequences, C)  # fmt: skip
    if start >= end or (C.CAUSAL and slot == first):
        return
    head, tile, kv_heads = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(1)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    until = slot if C.CAUSAL else last
    peak, other_peak = settled(initial_peaks, peaks, sequence, first, until, head, kv_heads, columns, C)
    none = (filled(0.0, C.BW, C.BV, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32), row_of(0.0, C.BW))
    plus_sums, minus_sums = none, none
    for group in range(C.GROUPS):
        query_head = head * C.GROUPS + group
        mapping = load_map((q_weight, q_bias), query_head, dims, columns, C)
        row_base = (batch * kv_heads * C.GROUPS + query_head) * tokens
        for row_first in range(start, stop, C.CHUNK):
            rows = row_first + tl.arange(0, C.CHUNK)
            x = load_tile(q + batch * q_batch + query_head * q_head, rows, dims, q_row, stop, C.DIM, C.OPERAND)
            given = load_tile(grad + batch * grad_batch + query_head * grad_head, rows, value_columns, grad_row, stop,
                              C.VALUES, tl.float32)  # fmt: skip
            norm, given, pull = load_row_gradients(norms + row_base, pulls + row_base, given, rows, stop, C)
            y = project(x, mapping, C)
            plus, minus = query_weights(y, peak, other_peak, norm, rows < stop, columns, True, C)
            pulled = spread(pull, C)
            plus_sums = absorb(plus_sums, plus.to(C.OPERAND), given, pulled, C)
            if C.HALVES == 2:
                minus_sums = absorb(minus_sums, minus.to(C.OPERAND), given, pulled, C)
    place = (slot.to(tl.int64) * kv_heads + head) * C.FEATURES
    write_query_sums(query_sums, query_units, place, (plus_sums, minus_sums), columns, value_columns, tile, C)


@triton.jit
def write_query_sums(sums, units, place, halves, columns, value_columns, tile, C: tl.constexpr):
    """Stores both halves' sums over queries, whose vectors are the sums of their columns."""
    plus, minus = halves
    plus, minus = (plus[0], plus[1] * C.UNIT, plus[2]), (minus[0], minus[1] * C.UNIT, minus[2])
    write_halves((sums, units, units), place, (plus, minus), columns, value_columns, tile, False, C)


@triton.jit
def settled(initial_peaks, peaks, sequence, first, until, kv_head, kv_heads, columns, C: tl.constexpr):
    """Both halves' peaks of `peaks_before`, 0 if all are tame; zeros without LOG."""
    peak = tl.zeros(columns.shape, tl.float32)
    other = peak
    if C.LOG:
        peak, other = peaks_before(initial_peaks, peaks, sequence, first, until, kv_head, kv_heads, columns, C)
        wild = wildness(peak, other, C) > C.TAME
        peak, other = tl.where(wild, peak, 0.0), tl.where(wild, other, 0.0)
    return peak, other
