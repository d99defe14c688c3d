"""Triton kernels for the gradients of keys and values, and of maps; see `query_kernels`.

A walk from the end of each segment gives them, from the sums over the queries after a chunk. In log space these sums
are those of exp(log φ(q) + peak - norm), with the peak of the keys before the queries, which is 0 if they are tame.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton.exact import exact_gradient, exact_scores
from ..triton.features import (
    add_to_map,
    filled,
    load_keys,
    load_map,
    load_tile,
    load_values,
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
from ..triton.states import in_columns, load_row_gradients, locate, peaks_before, rescaled, spread, wildness
from .forward_kernels import absorb, largest
from .query_kernels import query_weights, settled, through_state, write_query_sums


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "slots_before", "mask_batch"])
def key_walk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, ends, initial_peaks, peaks, final_peaks,
             query_sums, query_units, last, last_units, norms, pulls, grad_x, grad_v, grad_weight, grad_bias,
             grad_initial, grad_initial_keys, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
             mask_batch, grad_batch, grad_head, grad_row, dx_batch, dx_head, dx_row, dv_batch, dv_head, dv_row,
             tokens, span, segments, sequences, slots_before, C: tl.constexpr, HAS_LAST: tl.constexpr):  # fmt: skip
    """The gradients of k, v and the sums of the initial state, and each program's share of those of W and b.

    Grid: slots after `slots_before`, kv heads.
    """
    here = locate(slots_before + tl.program_id(0), ends, tokens, span, segments, sequences, C)
    batch, kv_head, kv_heads = here[1], tl.program_id(1).to(tl.int64), tl.num_programs(1)
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    into = (grad_x + batch * dx_batch + kv_head * dx_head, grad_v + batch * dv_batch + kv_head * dv_head, dx_row,
            dv_row)  # fmt: skip
    row_base = batch * kv_heads * C.GROUPS * tokens
    queries = (q + batch * q_batch, grad + batch * grad_batch, norms + row_base, pulls + row_base, q_head, grad_head,
               tokens, q_row, grad_row)  # fmt: skip
    wild, grad_map = C.TAME + 1, no_gradient(C)
    for EXACT in tl.static_range(1 + C.LOG):
        if wild > C.TAME:
            wild, grad_map = _key_walk(
                queries, keys, mask + batch * mask_batch, into, (q_weight, q_bias), (k_weight, k_bias),
                (initial_peaks, peaks, final_peaks), (query_sums, query_units, query_units),
                (last, last_units, last_units), (grad_initial, grad_initial_keys), here, kv_head, kv_heads, HAS_LAST,
                EXACT, C)  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * kv_heads + kv_head
    add_to_map(grad_weight, grad_bias, place, grad_map, slots_before > 0, C)


@triton.jit
def _key_walk(queries, keys, mask, into, q_map, k_map, peaks, segments, last, grad_initial, here, kv_head, kv_heads,
              HAS_LAST: tl.constexpr, EXACT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    sequence, _batch, start, stop, _end, first, slot, until = here
    columns, value_columns = tl.arange(0, C.BW), tl.arange(0, C.BV)
    known = (row_of(0.0, C.BW), row_of(0.0, C.BW))
    before = known
    highest = row_of(0.0, C.CHUNK)
    if C.LOG:
        upto = slot if C.CAUSAL else until
        before = peaks_before(peaks[0], peaks[1], sequence, first, upto, kv_head, kv_heads, columns, C)
        if EXACT:
            known = before
            if C.CAUSAL:
                known = _highest_logs(keys, mask, k_map, before, kv_head, start, stop, stop, C)
        else:
            highest += wildness(before[0], before[1], C)
    halves = _sums_after(peaks, segments, last, known, here, kv_head, kv_heads, columns, value_columns, HAS_LAST, C)
    grad_map = no_gradient(C)
    chunks = (stop - start + C.CHUNK - 1) // C.CHUNK
    for index in range(chunks):
        row_first = start + (chunks - 1 - index) * C.CHUNK
        earlier = (halves[0][2], halves[1][2])
        if EXACT and C.CAUSAL:
            earlier = _highest_logs(keys, mask, k_map, before, kv_head, start, row_first, stop, C)
        halves, highest, grad_map = _key_chunk(queries, keys, mask, into, q_map, k_map, kv_head, row_first, stop,
                                               halves, earlier, highest, grad_map, EXACT, C)  # fmt: skip
    if C.HAS_INITIAL:
        if slot == first:
            place = (sequence * kv_heads + kv_head) * C.FEATURES
            plus, minus = halves
            if C.LOG:
                plus = _with_peak(plus, load_vector(peaks[0] + place, columns, C.WIDTH, -1e30))
                if C.HALVES == 2:
                    minus = _with_peak(minus, load_vector(peaks[0] + place + C.WIDTH, columns, C.WIDTH, -1e30))
            write_query_sums(grad_initial[0], grad_initial[1], place, (plus, minus), columns, value_columns, 0, C)
    return tl.max(highest, 0), grad_map


@triton.jit
def _with_peak(half, peak):
    """One half's sums over queries with another peak, which the sums grow with."""
    total, unit = rescaled(half[0], half[1], tl.minimum(peak - half[2], 80.0))
    return total, unit, peak


@triton.jit
def _sums_after(peaks, segments, last, known, here, kv_head, kv_heads, columns, value_columns, HAS_LAST: tl.constexpr,
                C: tl.constexpr):  # fmt: skip
    """Both halves' sums over the queries after a segment, with the peaks that are given."""
    sequence, _batch, _start, _stop, _end, first, slot, until = here
    none = (filled(0.0, C.BW, C.BV, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32))
    plus, minus = (none[0], none[1], known[0]), (none[0], none[1], known[1])
    for later in range(slot + 1 if C.CAUSAL else first, until):
        place = (tl.cast(later, tl.int64) * kv_heads + kv_head) * C.FEATURES
        label, other = settled(peaks[0], peaks[1], sequence, first, later if C.CAUSAL else until, kv_head, kv_heads,
                               columns, C)  # fmt: skip
        plus, minus = _add_queries(plus, minus, segments, place, label, other, columns, value_columns, C)
    if HAS_LAST:
        place = (sequence * kv_heads + kv_head) * C.FEATURES
        label, other = known
        if C.LOG:
            label = load_vector(peaks[2] + place, columns, C.WIDTH, 0.0)
            other = load_vector(peaks[2] + place + (C.HALVES - 1) * C.WIDTH, columns, C.WIDTH, 0.0)
        plus, minus = _add_queries(plus, minus, last, place, label, other, columns, value_columns, C)
    return plus, minus


@triton.jit
def _add_queries(plus, minus, pointers, place, label, other, columns, value_columns, C: tl.constexpr):
    """Adds both halves' sums over queries, which have the peaks `label` and `other`, to what `key_walk` carries."""
    plus = _add_half(plus, pointers, place, label, columns, value_columns, C)
    if C.HALVES == 2:
        minus = _add_half(minus, pointers, place + C.WIDTH, other, columns, value_columns, C)
    return plus, minus


@triton.jit
def _add_half(half, pointers, place, label, columns, value_columns, C: tl.constexpr):
    total, unit, peak = half
    sums, vectors, _peaks = pointers
    more = load_tile(sums + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, tl.float32)
    more_unit = in_columns(load_vector(vectors + place, columns, C.WIDTH, 0.0) * (1.0 / C.UNIT), C)
    if C.LOG:
        more, more_unit = rescaled(more, more_unit, tl.minimum(peak - label, 80.0))
    return total + more, unit + more_unit, peak


@triton.jit
def _key_chunk(queries, keys, mask, into, q_map, k_map, kv_head, row_first, stop, halves, earlier, highest, grad_map,
               EXACT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Stores the gradients of a chunk's keys and values, and adds its queries to the sums.

    The sums come with the peaks up to the chunk's end, and leave with those before it.
    """
    grad_x, grad_v, dx_row, dv_row = into
    plus_sums, minus_sums = halves
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    rows = row_first + tl.arange(0, C.CHUNK)
    mapping = load_map(k_map, kv_head, dims, columns, C)
    keep, _x, values, logs = load_keys(keys, mask, mapping, rows, stop, dims, value_columns, C)
    if EXACT:
        hidden = tl.where(keep, 0.0, 1e30)[:, None]
        k_plus, k_minus = logs - plus_sums[2][None, :] - hidden, -logs - minus_sums[2][None, :] - hidden
        k_plus = only_real(tl.exp(tl.minimum(k_plus, 80.0)), columns, 0.0, C)
        k_minus = only_real(tl.exp(tl.minimum(k_minus, 80.0)), columns, 0.0, C)
    else:
        k_plus, k_minus = map_halves(logs, keep, 0.0, columns, C)
        if C.LOG:
            highest = tl.maximum(highest, largest(logs, columns, C))
    plus, minus = k_plus.to(C.OPERAND), k_minus.to(C.OPERAND)
    mean = filled(1.0 / C.UNIT, C.CHUNK, C.UNIT, C.OPERAND)
    grad_plus = through_state(values, mean, plus_sums[0], in_columns(tl.sum(plus_sums[1], 1), C), C)
    grad_minus = grad_plus
    grad_values = tl.dot(plus, plus_sums[0].to(C.OPERAND), input_precision=C.PRECISION)
    if C.HALVES == 2:
        grad_minus = through_state(values, mean, minus_sums[0], in_columns(tl.sum(minus_sums[1], 1), C), C)
        grad_values = tl.dot(minus, minus_sums[0].to(C.OPERAND), grad_values, input_precision=C.PRECISION)
    grads = (grad_plus, grad_minus, grad_values, filled(0.0, C.CHUNK, C.BW, tl.float32))
    if EXACT:
        halves = _with_peak(plus_sums, earlier[0]), _with_peak(minus_sums, earlier[1])
    if C.CAUSAL:
        for group in range(C.GROUPS):
            grads, halves = _pairs(queries, q_map, kv_head * C.GROUPS + group, rows, stop, keep, logs, plus, minus,
                                   values, grads, halves, EXACT, C)  # fmt: skip
    grad_plus, grad_minus, grad_values, exact = grads
    grad_y = map_gradient(k_plus, k_minus, grad_plus, grad_minus, C)
    if EXACT:
        grad_y += exact
    if C.HAS_MASK:
        grad_y = tl.where(keep[:, None], grad_y, 0.0)
        grad_values = tl.where(keep[:, None], grad_values, 0.0)
    store_tile(grad_v, grad_values, rows, value_columns, dv_row, stop, C.VALUES)
    # Keys and W are read again: shared memory has no room for them until here at 128 dimensions.
    x = load_values(keys[0], rows, dims, keys[2], stop, keep, C.DIM, C.OPERAND, C.HAS_MASK)
    found, grad_map = through_map(x, grad_y, load_map(k_map, kv_head, dims, columns, C), grad_map, C)
    store_tile(grad_x, found, rows, dims, dx_row, stop, C.DIM)
    return halves, highest, grad_map


@triton.jit
def _pairs(queries, q_map, head, rows, stop, keep, logs, plus, minus, values, grads, halves, EXACT: tl.constexpr,
           C: tl.constexpr):  # fmt: skip
    """Adds what a chunk's queries of one head give its keys and values, and the queries to the sums over queries."""
    q, grad, norms, pulls, q_head, grad_head, tokens, q_row, grad_row = queries
    grad_plus, grad_minus, grad_values, exact = grads
    plus_sums, minus_sums = halves
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    x = load_tile(q + head * q_head, rows, dims, q_row, stop, C.DIM, C.OPERAND)
    given = load_tile(grad + head * grad_head, rows, value_columns, grad_row, stop, C.VALUES, tl.float32)
    norm, given, pull = load_row_gradients(norms + head * tokens, pulls + head * tokens, given, rows, stop, C)
    y = project(x, load_map(q_map, head, dims, columns, C), C)
    slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
    visible = (rows[:, None] >= rows[None, :]) & keep[None, :] & (rows < stop)[:, None]
    slopes = tl.where(visible, slopes, 0.0)
    q_plus, q_minus = query_weights(y, plus_sums[2], minus_sums[2], norm, rows < stop, columns, EXACT, C)
    q_plus, q_minus = q_plus.to(C.OPERAND), q_minus.to(C.OPERAND)
    if EXACT:
        exact += exact_gradient(y, logs, columns, visible, norm, slopes, True, C)
        scores = exact_scores(y, logs, columns, visible, norm, C)
    else:
        weights = tl.trans(slopes).to(C.OPERAND)
        scores = tl.dot(q_plus, tl.trans(plus), input_precision=C.PRECISION)
        grad_plus = tl.dot(weights, q_plus, grad_plus, input_precision=C.PRECISION)
        if C.HALVES == 2:
            scores = tl.dot(q_minus, tl.trans(minus), scores, input_precision=C.PRECISION)
            grad_minus = tl.dot(weights, q_minus, grad_minus, input_precision=C.PRECISION)
        scores = tl.where(visible, scores, 0.0)
    grad_values = tl.dot(tl.trans(scores).to(C.OPERAND), given, grad_values, input_precision=C.PRECISION)
    pulled = spread(pull, C)
    plus_sums = absorb(plus_sums, q_plus, given, pulled, C)
    if C.HALVES == 2:
        minus_sums = absorb(minus_sums, q_minus, given, pulled, C)
    return (grad_plus, grad_minus, grad_values, exact), (plus_sums, minus_sums)


@triton.jit
def _highest_logs(keys, mask, k_map, peaks, kv_head, start, until, stop, C: tl.constexpr):
    """Both halves' peaks that include the keys from `start` to `until`."""
    peak, other_peak = peaks
    dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
    mapping = load_map(k_map, kv_head, dims, columns, C)
    for first in range(start, until, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep, _x, _values, y = load_keys(keys, mask, mapping, rows, stop, dims, tl.arange(0, C.BV), C)
        peak = tl.maximum(peak, tl.max(tl.where(keep[:, None], only_real(y, columns, -1e30, C), -1e30), 0))
        other_peak = tl.maximum(other_peak, tl.max(tl.where(keep[:, None], only_real(-y, columns, -1e30, C), -1e30), 0))
    return peak, other_peak
