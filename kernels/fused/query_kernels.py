"""Triton kernels for the gradients of linear attention with Hedgehog's map inside.

Of the forward pass the output, each row's norm and the sums of the segments are kept; features are computed again. With
s the scores, and g and h the gradients of a row's numerator and denominator (`row_gradients`),

    ds_ij = g_i·v_j + h_i,   dφ(q_i) = Σ_j ds_ij φ(k_j),   dφ(k_j) = Σ_i ds_ij φ(q_i),   dv_j = Σ_i s_ij g_i.

Here are the kernels for queries. A walk through each segment gives their gradients, from the sums over the keys before
a chunk; then the sums over the queries of each segment are computed for the walk of the keys. In the names, `given` is
g, `pull` is h and `slopes` is ds. In log space a walk is repeated like the forward one if a key is not tame. Features
too many for a tile are shared out among programs.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton.features import (
    add_to_map,
    filled,
    load_keys,
    load_map,
    load_tile,
    load_vector,
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
    no_sums,
    operand_of,
    peaks_before,
    row_gradients,
    spread,
    tamed,
    tile_columns,
    wildness,
    write_halves,
)
from ..triton.tokens import add_key, pulled_back, token_features, token_through_map
from .forward_kernels import absorb, key_features, sums_at_start


@triton.jit
def through_state(given, pull, half, C: tl.constexpr):
    """The gradient [rows columns] of features that were multiplied with one half of a sum; `pull` adds up to h."""
    grad = tl.dot(given, tl.trans(half[0].to(C.OPERAND)), input_precision=C.PRECISION)
    return tl.dot(pull, tl.trans(operand_of(half[1], C)), grad, input_precision=C.PRECISION)


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "slots_before", "mask_batch"])
def query_walk(q, k, v, output, grad, q_weight, q_bias, k_weight, k_bias, mask, ends, initial, initial_keys,
               initial_peaks, sums, key_sums, peaks, norms, pulls, grad_x, grad_weight, grad_bias, q_batch, q_head,
               q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch, o_batch, o_head, o_row, grad_batch,
               grad_head, grad_row, dx_batch, dx_head, dx_row, tokens, span, segments, sequences, slots_before,
               C: tl.constexpr):  # fmt: skip
    """The gradient of q, each program's share of those of W and b, and with NORMALIZE o·do of each row for `key_walk`.

    Grid: slots after `slots_before`, query heads, tiles of columns.
    """
    here = locate(slots_before + tl.program_id(0), ends, tokens, span, segments, sequences, C)
    batch, head, heads = here[1], tl.program_id(1).to(tl.int64), tl.num_programs(1)
    kv_head, row_base = head // C.GROUPS, (batch * heads + head) * tokens
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    rows = (q + batch * q_batch + head * q_head, output + batch * o_batch + head * o_head,
            grad + batch * grad_batch + head * grad_head, norms + row_base, pulls + row_base,
            grad_x + batch * dx_batch + head * dx_head, q_row, o_row, grad_row, dx_row)  # fmt: skip
    mask += batch * mask_batch
    maps, sums = ((q_weight, q_bias), (k_weight, k_bias)), (sums, key_sums, peaks)
    initial = (initial, initial_keys, initial_peaks)
    into = (grad_weight, grad_bias, slots_before)
    wild, grad_map = _query_walk(rows, keys, mask, maps, initial, sums, here, head, heads // C.GROUPS, C)
    if C.LOG and wild > C.TAME:
        _query_walk_by_token(rows, keys, mask, maps, initial, sums, here, head, heads // C.GROUPS, into, C)
    else:
        add_to_map(into, grad_map, C)


@triton.jit
def _query_walk(queries, keys, mask, maps, initial, segments, here, head, kv_heads, C: tl.constexpr):
    q, output, grad, norms, pulls, grad_x, q_row, o_row, grad_row, dx_row = queries
    start, stop, kv_head = here[2], here[3], head // C.GROUPS
    dims, columns, _, _ = tile_columns(C)
    value_columns = tl.arange(0, C.BV)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, C)
    halves, highest = tamed(halves, row_of(0.0, C.CHUNK), C)
    q_map, k_map = load_map(maps[0], head, dims, columns, C), load_map(maps[1], kv_head, dims, columns, C)
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
        pulled = spread(pull, 1, C)
        grad_plus = through_state(given, pulled, halves[0], C)
        grad_minus = grad_plus
        if C.HALVES == 2:
            grad_minus = through_state(given, pulled, halves[1], C)
        x = load_tile(q, rows, dims, q_row, stop, C.DIM, C.OPERAND)
        if C.CAUSAL:
            keep, _x, values, logs = load_keys(keys, mask, k_map, rows, stop, dims, value_columns, C)
            slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
            # Features of hidden keys are zero, so what their slopes are does not matter.
            weights = tl.where(rows[:, None] >= rows[None, :], slopes, 0.0).to(C.OPERAND)
            plus, minus, highest = key_features(logs, keep, highest, columns, C)
            grad_plus = tl.dot(weights, plus, grad_plus, input_precision=C.PRECISION)
            if C.HALVES == 2:
                grad_minus = tl.dot(weights, minus, grad_minus, input_precision=C.PRECISION)
            halves = absorb(halves, plus, minus, values, ones, C)
        q_plus, q_minus = query_weights(project(x, q_map, C), norm, rows < stop, halves, columns, False, C)
        grads = map_gradient(q_plus, q_minus, grad_plus, grad_minus, C)
        grads, grad_map = through_map(x, grads, q_map, grad_map, C)
        store_tile(grad_x, grads, rows, dims, dx_row, stop, C.DIM)
    return tl.max(highest, 0), grad_map


@triton.jit(noinline=True)
def _query_walk_by_token(queries, keys, mask, maps, initial, segments, here, head, kv_heads, into, C: tl.constexpr):
    """What `_query_walk` does, one token after another; only in log space, where the gradient of a numerator is do."""
    q, _output, grad, norms, pulls, grad_x, q_row, _o_row, grad_row, dx_row = queries
    kv_head, dims, columns, value_columns = head // C.GROUPS, tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, C)
    grad_map = no_gradient(C)
    for token in range(here[2], here[3]):
        if C.CAUSAL:
            halves = add_key(halves, keys, mask, maps[1], kv_head, token, dims, columns, value_columns, C)
        place, norm = tl.cast(token, tl.int64), tl.load(norms + token)
        plus, minus = token_features(q + place * q_row, True, maps[0], head, dims, columns, C)
        given = load_vector(grad + place * grad_row, value_columns, C.VALUES, 0.0)
        _plus, _minus, grad_y = pulled_back(plus - norm, minus - norm, halves, given, -tl.load(pulls + token), C)
        grad_map = token_through_map(q + place * q_row, True, grad_y, maps[0], head, grad_map, grad_x + place * dx_row,
                                     dims, columns, C)  # fmt: skip
    add_to_map(into, grad_map, C)


@triton.jit
def query_weights(y, norm, keep, halves, columns, SHIFTED: tl.constexpr, C: tl.constexpr):
    """Both halves of the queries' features; with LOG exp(log φ(q) - norm), less the peak if SHIFTED."""
    if C.LOG:
        base = tl.where(keep, norm * C.LOG2_E, 1e30)[:, None]
        plus, minus = y * C.LOG2_E - base, y * -C.LOG2_E - base
        if SHIFTED:
            plus, minus = plus - halves[0][2][None, :] * C.LOG2_E, minus - halves[1][2][None, :] * C.LOG2_E
        plus = only_real(tl.exp2(tl.minimum(plus, 115.0)), columns, 0.0, C)
        minus = only_real(tl.exp2(tl.minimum(minus, 115.0)), columns, 0.0, C)
    else:
        plus, minus = map_halves(y, keep, 0.0, columns, C)
    return plus, minus


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences"])
def sum_queries(q, grad, q_weight, q_bias, ends, initial_peaks, peaks, norms, pulls, query_sums, query_units,
                query_peaks, q_batch, q_head, q_row, grad_batch, grad_head, grad_row, tokens, span, segments, sequences,
                C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(q) gᵀ and Σ φ(q) h of a segment's queries, over the query heads of a kv head.

    With LOG, φ(q) here means exp(log φ(q) - norm), whose peak is minus that of the keys before the segment (CAUSAL) or
    of the whole sequence, 0 if it is tame. With CAUSAL the sums of a sequence's first segment are left out.
    Grid: slots, kv heads, tiles of values or of columns.
    """
    sequence, batch, start, stop, end, first, slot, last = locate(
        tl.program_id(0), ends, tokens, span, segments, sequences, C)  # fmt: skip
    if start >= end or (C.CAUSAL and slot == first):
        return
    head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    dims, columns, value_columns, tile = tile_columns(C)
    halves = no_sums(0.0, C)
    if C.LOG:
        until = slot if C.CAUSAL else last
        peak, other = peaks_before(initial_peaks, peaks, sequence, first, until, head, kv_heads, columns, C)
        wild = wildness(peak, other, C) > C.TAME
        peak, other = tl.where(wild, peak, 0.0), tl.where(wild, other, 0.0)
        halves = (halves[0][0], halves[0][1], -peak), (halves[1][0], halves[1][1], -other)
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
            plus, minus = query_weights(project(x, mapping, C), norm, rows < stop, halves, columns, True, C)
            halves = absorb(halves, plus.to(C.OPERAND), minus.to(C.OPERAND), given, spread(pull, C.UNIT, C), C)
    place = (slot.to(tl.int64) * kv_heads + head) * C.FEATURES
    write_halves((query_sums, query_units, query_peaks), place, halves, columns, value_columns, tile, C.LOG, C)
