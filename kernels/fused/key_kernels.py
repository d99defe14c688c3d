"""Triton kernels for the gradients of keys and values, and of maps; see `query_kernels`.

A walk from the end of each segment gives them, from the sums over the queries after a chunk. In log space these sums
are those of exp(log φ(q) + peak - norm), with the peak of the keys before the queries, which is 0 if they are tame.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.exact import exact_gradient, exact_scores
from ..triton.features import (
    filled,
    load_keep,
    load_map,
    load_tile,
    load_values,
    load_vector,
    map_gradient,
    map_halves,
    only_real,
    project,
    row_of,
    store_tile,
)
from ..triton.states import in_columns, load_row_gradients, locate, peaks_before, read_sums, rescaled, spread, wildness
from .forward_kernels import absorb, largest
from .query_kernels import query_weights, settled, through_state, write_query_sums


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "mask_batch"])
def key_walk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, ends, initial_peaks, peaks, final_peaks,
             query_sums, query_units, last, last_units, norms, pulls, grad_y, grad_v, grad_initial, grad_initial_keys,
             q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch, grad_batch, grad_head,
             grad_row, dv_batch, dv_head, dv_row, tokens, span, segments, sequences, C: tl.constexpr,
             HAS_LAST: tl.constexpr):  # fmt: skip
    """The gradients of y = Wk + b [batch kv_head tokens WIDTH], of v, and of the sums of the initial state.

    Grid: slots, kv heads.
    """
    sequence, batch, start, stop, end, first, slot, until = locate(
        tl.program_id(0), ends, tokens, span, segments, sequences, C)  # fmt: skip
    if start >= end:
        return
    kv_head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    k, v = k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head
    q, grad, mask = q + batch * q_batch, grad + batch * grad_batch, mask + batch * mask_batch
    grad_v += batch * dv_batch + kv_head * dv_head
    grad_y += (batch * kv_heads + kv_head) * tokens * C.WIDTH
    row_base = batch * kv_heads * C.GROUPS * tokens
    norms, pulls = norms + row_base, pulls + row_base
    wild = _key_walk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, initial_peaks, peaks, final_peaks,
                     query_sums, query_units, last, last_units, norms, pulls, grad_y, grad_v, grad_initial,
                     grad_initial_keys, q_head, q_row, k_row, v_row, grad_head, grad_row, dv_row, tokens, sequence,
                     kv_head, kv_heads, first, slot, until, start, stop, HAS_LAST, False, C)  # fmt: skip
    if C.LOG:
        if wild > C.TAME:
            _key_walk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, initial_peaks, peaks, final_peaks,
                      query_sums, query_units, last, last_units, norms, pulls, grad_y, grad_v, grad_initial,
                      grad_initial_keys, q_head, q_row, k_row, v_row, grad_head, grad_row, dv_row, tokens, sequence,
                      kv_head, kv_heads, first, slot, until, start, stop, HAS_LAST, True, C)  # fmt: skip


@triton.jit
def _key_walk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, initial_peaks, peaks, final_peaks, query_sums,
              query_units, last, last_units, norms, pulls, grad_y, grad_v, grad_initial, grad_initial_keys, q_head,
              q_row, k_row, v_row, grad_head, grad_row, dv_row, tokens, sequence, kv_head, kv_heads, first, slot, until,
              start, stop, HAS_LAST: tl.constexpr, EXACT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    columns, value_columns = tl.arange(0, C.BW), tl.arange(0, C.BV)
    peak, other_peak = row_of(0.0, C.BW), row_of(0.0, C.BW)
    before, other_before = peak, peak
    highest = row_of(0.0, C.CHUNK)
    if C.LOG:
        upto = slot if C.CAUSAL else until
        before = peaks_before(initial_peaks, peaks, sequence, first, upto, kv_head, kv_heads, 0, columns, C)
        other_before = before
        if C.HALVES == 2:
            other_before = peaks_before(initial_peaks, peaks, sequence, first, upto, kv_head, kv_heads, 1, columns, C)
        if EXACT:
            peak, other_peak = before, other_before
            if C.CAUSAL:
                peak, other_peak = _highest_logs(k, k_weight, k_bias, mask, before, other_before, k_row, kv_head, start,
                                                 stop, stop, C)  # fmt: skip
        else:
            highest += wildness(before, other_before, C)
    total, unit, other, other_unit = _sums_after(
        initial_peaks, peaks, final_peaks, query_sums, query_units, last, last_units, peak, other_peak, sequence, first,
        slot, until, kv_head, kv_heads, columns, value_columns, HAS_LAST, C)  # fmt: skip
    chunks = (stop - start + C.CHUNK - 1) // C.CHUNK
    for index in range(chunks):
        row_first = start + (chunks - 1 - index) * C.CHUNK
        earlier, other_earlier = peak, other_peak
        if EXACT and C.CAUSAL:
            earlier, other_earlier = _highest_logs(k, k_weight, k_bias, mask, before, other_before, k_row, kv_head,
                                                   start, row_first, stop, C)  # fmt: skip
        total, unit, other, other_unit, highest = _key_chunk(
            q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, norms, pulls, grad_y, grad_v, q_head, q_row, k_row,
            v_row, grad_head, grad_row, dv_row, tokens, kv_head, row_first, stop, total, unit, other, other_unit, peak,
            other_peak, earlier, other_earlier, highest, EXACT, C)  # fmt: skip
        peak, other_peak = earlier, other_earlier
    if C.HAS_INITIAL:
        if slot == first:
            whole = (sequence * kv_heads + kv_head) * C.FEATURES
            _write_initial(grad_initial, grad_initial_keys, initial_peaks, whole, total, unit, peak, columns,
                           value_columns, C)  # fmt: skip
            if C.HALVES == 2:
                _write_initial(grad_initial, grad_initial_keys, initial_peaks, whole + C.WIDTH, other, other_unit,
                               other_peak, columns, value_columns, C)  # fmt: skip
    return tl.max(highest, 0)


@triton.jit
def _sums_after(initial_peaks, peaks, final_peaks, query_sums, query_units, last, last_units, peak, other_peak,
                sequence, first, slot, until, kv_head, kv_heads, columns, value_columns, HAS_LAST: tl.constexpr,
                C: tl.constexpr):  # fmt: skip
    """Both halves' sums over the queries after a segment, with the peaks that are given."""
    total, unit = filled(0.0, C.BW, C.BV, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32)
    other, other_unit = total, unit
    for later in range(slot + 1 if C.CAUSAL else first, until):
        place = (tl.cast(later, tl.int64) * kv_heads + kv_head) * C.FEATURES
        label, other_label = settled(initial_peaks, peaks, sequence, first, later if C.CAUSAL else until, kv_head,
                                     kv_heads, columns, C)  # fmt: skip
        total, unit = _add_queries(total, unit, query_sums, query_units, place, peak - label, columns, value_columns, C)
        if C.HALVES == 2:
            other, other_unit = _add_queries(other, other_unit, query_sums, query_units, place + C.WIDTH,
                                             other_peak - other_label, columns, value_columns, C)  # fmt: skip
    if HAS_LAST:
        place = (sequence * kv_heads + kv_head) * C.FEATURES
        label, other_label = peak, other_peak
        if C.LOG:
            label = load_vector(final_peaks + place, columns, C.WIDTH, 0.0)
            other_label = load_vector(final_peaks + place + (C.HALVES - 1) * C.WIDTH, columns, C.WIDTH, 0.0)
        total, unit = _add_queries(total, unit, last, last_units, place, peak - label, columns, value_columns, C)
        if C.HALVES == 2:
            other, other_unit = _add_queries(other, other_unit, last, last_units, place + C.WIDTH,
                                             other_peak - other_label, columns, value_columns, C)  # fmt: skip
    return total, unit, other, other_unit


@triton.jit
def _key_chunk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, norms, pulls, grad_y, grad_v, q_head, q_row,
               k_row, v_row, grad_head, grad_row, dv_row, tokens, kv_head, row_first, stop, total, unit, other,
               other_unit, peak, other_peak, earlier, other_earlier, highest, EXACT: tl.constexpr,
               C: tl.constexpr):  # fmt: skip
    """Stores the gradients of a chunk's keys and values, and adds its queries to the sums.

    The sums come with the peaks up to the chunk's end, and leave with those before it.
    """
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    rows = row_first + tl.arange(0, C.CHUNK)
    keep = load_keep(mask, rows, stop, C.HAS_MASK)
    keys = load_values(k, rows, dims, k_row, stop, keep, C.DIM, C.OPERAND, C.HAS_MASK)
    values = load_values(v, rows, value_columns, v_row, stop, keep, C.VALUES, C.OPERAND, C.HAS_MASK)
    matrix, shift = load_map(k_weight, k_bias, kv_head, dims, columns, C)
    logs = project(keys, matrix, shift, C)
    if EXACT:
        hidden = tl.where(keep, 0.0, 1e30)[:, None]
        k_plus = only_real(tl.exp(tl.minimum(logs - peak[None, :] - hidden, 80.0)), columns, 0.0, C)
        k_minus = only_real(tl.exp(tl.minimum(-logs - other_peak[None, :] - hidden, 80.0)), columns, 0.0, C)
    else:
        k_plus, k_minus = map_halves(logs, keep, 0.0, columns, C)
        if C.LOG:
            highest = tl.maximum(highest, largest(logs, columns, C))
    plus, minus = k_plus.to(C.OPERAND), k_minus.to(C.OPERAND)
    mean = filled(1.0 / C.UNIT, C.CHUNK, C.UNIT, C.OPERAND)
    grad_plus = through_state(values, mean, total, in_columns(tl.sum(unit, 1), C), C)
    grad_minus = grad_plus
    grad_values = tl.dot(plus, total.to(C.OPERAND), input_precision=C.PRECISION)
    if C.HALVES == 2:
        grad_minus = through_state(values, mean, other, in_columns(tl.sum(other_unit, 1), C), C)
        grad_values = tl.dot(minus, other.to(C.OPERAND), grad_values, input_precision=C.PRECISION)
    exact = filled(0.0, C.CHUNK, C.BW, tl.float32)
    if C.CAUSAL:
        if EXACT:
            total, unit = rescaled(total, unit, earlier - peak)
            other, other_unit = rescaled(other, other_unit, other_earlier - other_peak)
        for group in range(C.GROUPS):
            head = kv_head * C.GROUPS + group
            (grad_plus, grad_minus, grad_values, exact, total, unit, other, other_unit) = _pairs(
                q + head * q_head, grad + head * grad_head, q_weight, q_bias, norms + head * tokens,
                pulls + head * tokens, q_row, grad_row, head, stop, rows, keep, logs, plus, minus, values, grad_plus,
                grad_minus, grad_values, exact, total, unit, other, other_unit, earlier, other_earlier, EXACT,
                C)  # fmt: skip
    grads = map_gradient(k_plus, k_minus, grad_plus, grad_minus, C)
    if EXACT:
        grads += exact
    if C.HAS_MASK:
        grads = tl.where(keep[:, None], grads, 0.0)
        grad_values = tl.where(keep[:, None], grad_values, 0.0)
    store_tile(grad_y, grads, rows, columns, C.WIDTH, stop, C.WIDTH)
    store_tile(grad_v, grad_values, rows, value_columns, dv_row, stop, C.VALUES)
    return total, unit, other, other_unit, highest


@triton.jit
def _pairs(q, grad, weight, bias, norms, pulls, q_row, grad_row, head, stop, rows, keep, logs, plus, minus, values,
           grad_plus, grad_minus, grad_values, exact, total, unit, other, other_unit, peak, other_peak,
           EXACT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Adds what a chunk's queries of one head give its keys and values, and the queries to the sums over queries."""
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    matrix, shift = load_map(weight, bias, head, dims, columns, C)
    x = load_tile(q, rows, dims, q_row, stop, C.DIM, C.OPERAND)
    given = load_tile(grad, rows, value_columns, grad_row, stop, C.VALUES, tl.float32)
    norm, given, pull = load_row_gradients(norms, pulls, given, rows, stop, C)
    y = project(x, matrix, shift, C)
    slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
    visible = (rows[:, None] >= rows[None, :]) & keep[None, :] & (rows < stop)[:, None]
    slopes = tl.where(visible, slopes, 0.0)
    q_plus, q_minus = query_weights(y, peak, other_peak, norm, rows < stop, columns, EXACT, C)
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
    total, unit = absorb(total, unit, q_plus, given, pulled, C)
    if C.HALVES == 2:
        other, other_unit = absorb(other, other_unit, q_minus, given, pulled, C)
    return grad_plus, grad_minus, grad_values, exact, total, unit, other, other_unit


@triton.jit
def _highest_logs(k, weight, bias, mask, peak, other_peak, k_row, kv_head, start, until, stop, C: tl.constexpr):
    """Both halves' peaks that include the keys from `start` to `until`."""
    dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
    matrix, shift = load_map(weight, bias, kv_head, dims, columns, C)
    for first in range(start, until, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, rows, stop, C.HAS_MASK)
        keys = load_values(k, rows, dims, k_row, stop, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        y = project(keys, matrix, shift, C)
        peak = tl.maximum(peak, tl.max(tl.where(keep[:, None], only_real(y, columns, -1e30, C), -1e30), 0))
        other_peak = tl.maximum(other_peak, tl.max(tl.where(keep[:, None], only_real(-y, columns, -1e30, C), -1e30), 0))
    return peak, other_peak


@triton.jit
def _add_queries(total, unit, sums, units, place, exponent, columns, value_columns, C: tl.constexpr):
    """Adds one half's sums over queries, times exp(exponent), to what `key_walk` carries."""
    more, more_unit, _ = read_sums(sums, units, units, place, columns, value_columns, C)
    more_unit *= 1.0 / C.UNIT
    if C.LOG:
        more, more_unit = rescaled(more, more_unit, tl.minimum(exponent, 80.0))
    return total + more, unit + more_unit


@triton.jit
def _write_initial(sums, units, initial_peaks, place, total, unit, peak, columns, value_columns, C: tl.constexpr):
    """Stores the gradient of one half of the initial state, whose sums have their own peaks."""
    if C.LOG:
        own = tl.load(initial_peaks + place + columns, mask=columns < C.WIDTH, other=-1e30)
        total, unit = rescaled(total, unit, tl.minimum(own - peak, 80.0))
    write_query_sums(sums, units, place, total, unit, columns, value_columns, 0, C)


@triton.jit(do_not_specialize=["batches", "tokens", "parts", "span", "entries", "mask_batch"])
def map_gradients(x, grad_y, weight, mask, grad_x, grad_weight, grad_bias, x_batch, x_head, x_row, mask_batch, dx_batch,
                  dx_head, dx_row, batches, tokens, parts, span, entries, C: tl.constexpr,
                  MASKED: tl.constexpr):  # fmt: skip
    """The gradients dx = dy Wᵀ, and each part's sums of dW = Σ x dyᵀ [groups·parts head DIM WIDTH] and db.

    A part is `span` tokens of each of a group of `entries` batch entries. With MASKED, tokens that the mask hides are
    left out of the sums, whatever their memory holds. Grid: groups · parts, heads.
    """
    part, head, heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first_batch, start = (part // parts).to(tl.int64) * entries, part % parts * span
    dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
    matrix = load_tile(weight + head * C.DIM * C.WIDTH, dims, columns, C.WIDTH, C.DIM, C.WIDTH, C.OPERAND)
    grad_matrix, grad_shift = tl.zeros(matrix.shape, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32)
    ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    end = tl.minimum(start + span, tokens)
    for batch in range(first_batch, tl.minimum(first_batch + entries, batches)):
        given_base = grad_y + (batch * heads + head) * tokens * C.WIDTH
        for first in range(start, end, C.CHUNK):
            rows = first + tl.arange(0, C.CHUNK)
            keep = load_keep(mask + batch * mask_batch, rows, end, MASKED)
            inputs = load_values(x + batch * x_batch + head * x_head, rows, dims, x_row, end, keep, C.DIM, C.OPERAND,
                                 MASKED)  # fmt: skip
            given = load_tile(given_base, rows, columns, C.WIDTH, end, C.WIDTH, C.OPERAND)
            store_tile(grad_x + batch * dx_batch + head * dx_head,
                       tl.dot(given, tl.trans(matrix), input_precision=C.PRECISION), rows, dims, dx_row, end,
                       C.DIM)  # fmt: skip
            grad_matrix = tl.dot(tl.trans(inputs), given, grad_matrix, input_precision=C.PRECISION)
            if C.HAS_BIAS:
                grad_shift = tl.dot(tl.trans(given), ones, grad_shift, input_precision=C.PRECISION)
    place = part.to(tl.int64) * heads + head
    store_tile(grad_weight + place * C.DIM * C.WIDTH, grad_matrix, dims, columns, C.WIDTH, C.DIM, C.WIDTH)
    if C.HAS_BIAS:
        tl.store(grad_bias + place * C.WIDTH + columns, tl.sum(grad_shift, 1) * (1.0 / C.UNIT),
                 mask=columns < C.WIDTH)  # fmt: skip
