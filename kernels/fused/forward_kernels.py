"""Triton kernels for the outputs of linear attention with Hedgehog's map inside.

A program for each segment and head walks through the segment's tokens with the sums in registers. If there is more than
one segment, the sums of each over its keys are computed first.

In log space a walk takes keys as they are. If a log feature of a key turns out not to be tame, it repeats the segment
with a shift per feature, and sums the scores of a chunk pair by pair.

`halves` are the sums of both halves of a map, three each (see `triton.states`), and `here` is what `locate` says.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton.exact import exact_scores, highest_log
from ..triton.features import filled, load_keys, load_map, load_tile, map_halves, only_real, project, row_of
from ..triton.states import finish, locate, operand_of, rescaled, sums_before, wildness, write_halves


@triton.jit
def largest(y, columns, C: tl.constexpr):
    """The largest absolute value of each row of y [rows columns]."""
    return tl.max(only_real(tl.abs(y), columns, 0.0, C), 1)


@triton.jit
def absorb(half, features, values, ones, C: tl.constexpr):
    """Adds keys to one half's sums; features [keys columns] are an operand."""
    total, unit, peak = half
    features = tl.trans(features)
    return (tl.dot(features, values, total, input_precision=C.PRECISION),
            tl.dot(features, ones, unit, input_precision=C.PRECISION), peak)  # fmt: skip


@triton.jit
def absorb_logs(half, logs, keep, values, ones, columns, C: tl.constexpr):
    """Adds keys, given by their log features, to one half's sums, which grow with its peak."""
    total, unit, peak = half
    logs = tl.where(keep[:, None], only_real(logs, columns, -1e30, C), -1e30)
    grown = tl.maximum(peak, tl.max(logs, 0))
    total, unit = rescaled(total, unit, peak - grown)
    features = tl.where(logs > -5e29, tl.exp(logs - grown[None, :]), 0.0).to(C.OPERAND)
    return absorb((total, unit, grown), features, values, ones, C)


@triton.jit
def key_features(y, keep, highest, columns, EXACT: tl.constexpr, C: tl.constexpr):
    """Both halves of keys' features as operands, not computed if EXACT, and with LOG the largest of each row so far."""
    plus, minus = y, y
    if not EXACT:
        plus, minus = map_halves(y, keep, 0.0, columns, C)
        if C.LOG:
            highest = tl.maximum(highest, largest(y, columns, C))
    return plus.to(C.OPERAND), minus.to(C.OPERAND), highest


@triton.jit
def absorb_halves(halves, y, plus, minus, keep, values, ones, columns, EXACT: tl.constexpr, C: tl.constexpr):
    """Adds keys to both halves' sums: features that are operands, or EXACT their log features y with its peaks."""
    first, second = halves
    if EXACT:
        first = absorb_logs(first, y, keep, values, ones, columns, C)
        if C.HALVES == 2:
            second = absorb_logs(second, -y, keep, values, ones, columns, C)
    else:
        first = absorb(first, plus, values, ones, C)
        if C.HALVES == 2:
            second = absorb(second, minus, values, ones, C)
    return first, second


@triton.jit
def _tame(half):
    """One half's sums with a peak of 0."""
    total, unit = rescaled(half[0], half[1], half[2])
    return total, unit, tl.zeros_like(half[2])


@triton.jit
def sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, EXACT: tl.constexpr,
                  C: tl.constexpr):  # fmt: skip
    """Both halves' sums before a walk, and the `wildness` of their peaks, unless it is EXACT."""
    sequence, _batch, _start, _stop, _end, first, slot, last = here
    until = slot if C.CAUSAL else last
    plus = sums_before(initial, segments, sequence, first, until, kv_head, kv_heads, 0, columns, value_columns, C)
    minus = plus
    if C.HALVES == 2:
        minus = sums_before(initial, segments, sequence, first, until, kv_head, kv_heads, 1, columns, value_columns, C)
    wild = 0.0
    if C.LOG and not EXACT:
        wild = wildness(plus[2], minus[2], C)
        plus = _tame(plus)
        minus = _tame(minus) if C.HALVES == 2 else plus
    return (plus, minus), wild


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "mask_batch"])
def sum_keys(k, v, k_weight, k_bias, mask, ends, sums, key_sums, peaks, k_batch, k_head, k_row, v_batch, v_head, v_row,
             mask_batch, tokens, span, segments, sequences, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(k) vᵀ [slot head halves·WIDTH VALUES] and Σ φ(k) of a segment, and with LOG their peaks.

    With CAUSAL those of a sequence's last segment, which no other needs, are zero, as are those of an empty slot.
    Grid: slots, kv heads, tiles of values.
    """
    _sequence, batch, start, stop, end, _first, slot, last = locate(
        tl.program_id(0), ends, tokens, span, segments, sequences, C)  # fmt: skip
    stop = tl.where((start >= end) | (C.CAUSAL and slot + 1 == last), start, stop)
    head = tl.program_id(1).to(tl.int64)
    keys = (k + batch * k_batch + head * k_head, v + batch * v_batch + head * v_head, k_row, v_row)
    mask += batch * mask_batch
    place = (slot.to(tl.int64) * tl.num_programs(1) + head) * C.FEATURES
    wild = C.TAME + 1
    for EXACT in tl.static_range(1 + C.LOG):
        if wild > C.TAME:
            wild = _sum_keys(keys, (k_weight, k_bias), mask, (sums, key_sums, peaks), place, head, start, stop, EXACT,
                             C)  # fmt: skip


@triton.jit
def _sum_keys(keys, mapping, mask, into, place, head, start, stop, EXACT: tl.constexpr, C: tl.constexpr):
    tile = tl.program_id(2)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    mapping = load_map(mapping, head, dims, columns, C)
    none = (filled(0.0, C.BW, C.BV, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32),
            row_of(-1e30 if EXACT else 0.0, C.BW))  # fmt: skip
    halves = (none, none)
    ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    highest = row_of(0.0, C.CHUNK)
    for first in range(start, stop, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep, _x, values, y = load_keys(keys, mask, mapping, rows, stop, dims, value_columns, C)
        plus, minus, highest = key_features(y, keep, highest, columns, EXACT, C)
        halves = absorb_halves(halves, y, plus, minus, keep, values, ones, columns, EXACT, C)
    write_halves(into, place, halves, columns, value_columns, tile, C.LOG, C)
    return tl.max(highest, 0)


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "mask_batch"])
def walk(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, ends, initial, initial_keys, initial_peaks, sums, key_sums,
         peaks, final, final_keys, final_peaks, output, norms, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch,
         v_head, v_row, mask_batch, o_batch, o_head, o_row, tokens, span, segments, sequences, eps,
         C: tl.constexpr):  # fmt: skip
    """Outputs, each row's norm, and the sums over all keys of each sequence, which the walk of its last segment has.

    A norm is the row's denominator plus eps, or with LOG the logarithm of its denominator. Without NORMALIZE the output
    is the numerator, and the norm 1 (0 with LOG). Grid: slots, query heads, tiles of values.
    """
    here = locate(tl.program_id(0), ends, tokens, span, segments, sequences, C)
    batch, head, heads = here[1], tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if here[2] >= here[4]:
        return
    kv_head = head // C.GROUPS
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    rows = (q + batch * q_batch + head * q_head, output + batch * o_batch + head * o_head,
            norms + (batch * heads + head) * tokens, q_row, o_row)  # fmt: skip
    wild = C.TAME + 1
    for EXACT in tl.static_range(1 + C.LOG):
        if wild > C.TAME:
            wild = _walk(rows, keys, mask + batch * mask_batch, (q_weight, q_bias), (k_weight, k_bias),
                         (initial, initial_keys, initial_peaks), (sums, key_sums, peaks),
                         (final, final_keys, final_peaks), here, head, heads // C.GROUPS, eps, EXACT, C)  # fmt: skip


@triton.jit
def _walk(queries, keys, mask, q_map, k_map, initial, segments, final, here, head, kv_heads, eps, EXACT: tl.constexpr,
          C: tl.constexpr):  # fmt: skip
    q, output, norms, q_row, o_row = queries
    sequence, _batch, start, stop, _end, _first, slot, last = here
    kv_head, tile = head // C.GROUPS, tl.program_id(2)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    halves, wild = sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, EXACT, C)
    highest = row_of(0.0, C.CHUNK) + wild
    q_map, k_map = load_map(q_map, head, dims, columns, C), load_map(k_map, kv_head, dims, columns, C)
    ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    for row_first in range(start, stop, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        x = load_tile(q, rows, dims, q_row, stop, C.DIM, C.OPERAND)
        if C.CAUSAL:
            keep, _x, values, y = load_keys(keys, mask, k_map, rows, stop, dims, value_columns, C)
            k_plus, k_minus, highest = key_features(y, keep, highest, columns, EXACT, C)
        given = project(x, q_map, C)
        if EXACT:
            q_plus, q_minus, scale = _exact_weights(given, halves[0][2], halves[1][2], columns, C)
            if C.CAUSAL:
                visible = (rows[:, None] >= rows[None, :]) & keep[None, :]
                top = highest_log(given, y, columns, visible, scale, C)
                scores = exact_scores(given, y, columns, visible, top, C)
                fallen = tl.exp(scale - top)[:, None]
                q_plus, q_minus, scale = q_plus * fallen, q_minus * fallen, top
        else:
            q_plus, q_minus, scale = _plain_weights(given, rows < stop, columns, C)
        q_plus, q_minus = q_plus.to(C.OPERAND), q_minus.to(C.OPERAND)
        if C.CAUSAL and not EXACT:
            scores = tl.dot(q_plus, tl.trans(k_plus), input_precision=C.PRECISION)
            if C.HALVES == 2:
                scores = tl.dot(q_minus, tl.trans(k_minus), scores, input_precision=C.PRECISION)
            scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
        numerator, denominator = _read(q_plus, q_minus, halves, C)
        if C.CAUSAL:
            weights = scores.to(C.OPERAND)
            numerator = tl.dot(weights, values, numerator, input_precision=C.PRECISION)
            denominator = tl.dot(weights, ones, denominator, input_precision=C.PRECISION)
            halves = absorb_halves(halves, y, k_plus, k_minus, keep, values, ones, columns, EXACT, C)
        finish(numerator, tl.sum(denominator, 1) * (1.0 / C.UNIT), scale, output, norms, rows, value_columns, o_row,
               stop, eps, tile, C)  # fmt: skip
    if (slot + 1 == last) & (head % C.GROUPS == 0):
        place = (sequence * kv_heads + kv_head) * C.FEATURES
        write_halves(final, place, halves, columns, value_columns, tile, C.LOG, C)
    return tl.max(highest, 0)


@triton.jit
def _plain_weights(y, keep, columns, C: tl.constexpr):
    """Both halves of the queries' features, with LOG after a shift that makes each row's largest 1; and this shift."""
    scale = row_of(0.0, C.CHUNK)
    if C.LOG:
        scale = largest(y, columns, C) if C.HALVES == 2 else tl.max(only_real(y, columns, -1e30, C), 1)
    plus, minus = map_halves(y, keep, scale[:, None], columns, C)
    return plus, minus, scale


@triton.jit
def _exact_weights(y, peak, other_peak, columns, C: tl.constexpr):
    """Both halves' exp(log φ(q) + peak - scale), with the scale that makes each row's largest 1; and the scale."""
    plus = tl.maximum(only_real(y + peak[None, :], columns, -1e30, C), -1e30)
    minus = tl.maximum(only_real(other_peak[None, :] - y, columns, -1e30, C), -1e30)
    scale = tl.max(plus, 1)
    if C.HALVES == 2:
        scale = tl.maximum(scale, tl.max(minus, 1))
    return tl.exp(plus - scale[:, None]), tl.exp(tl.minimum(minus - scale[:, None], 0.0)), scale


@triton.jit
def _read(q_plus, q_minus, halves, C: tl.constexpr):
    """The numerators [rows values] and, in `UNIT` columns, denominators of queries over the keys of both sums."""
    total, unit, _peak = halves[0]
    other, other_unit, _peak = halves[1]
    numerator = tl.dot(q_plus, total.to(C.OPERAND), input_precision=C.PRECISION)
    denominator = tl.dot(q_plus, operand_of(unit, C), input_precision=C.PRECISION)
    if C.HALVES == 2:
        numerator = tl.dot(q_minus, other.to(C.OPERAND), numerator, input_precision=C.PRECISION)
        denominator = tl.dot(q_minus, operand_of(other_unit, C), denominator, input_precision=C.PRECISION)
    return numerator, denominator
