"""Triton kernels for the outputs of linear attention with Hedgehog's map inside.

A program for each segment and head walks through the segment's tokens with the sums in registers. If there is more than
one segment, the sums of each over its keys are computed first. Features too many for a tile, of which there are only
plain ones, are walked through one tile of columns after another, and the output is added up in memory.

In log space a walk takes keys as they are. If a log feature of a key turns out not to be tame, it repeats the segment
one token after another, as decoding does.

`halves` are the sums of both halves of a map, three each (see `triton.states`), and `here` is what `locate` says.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton.features import filled, load_keys, load_map, load_tile, map_halves, only_real, project, row_of
from ..triton.states import (
    finish,
    locate,
    no_sums,
    operand_of,
    read_halves,
    sums_between,
    tamed,
    tile_columns,
    write_halves,
)
from ..triton.tokens import add_key, answer


@triton.jit
def largest(y, columns, C: tl.constexpr):
    """The largest absolute value of each row of y [rows columns]."""
    return tl.max(only_real(tl.abs(y), columns, 0.0, C), 1)


@triton.jit
def absorb(halves, plus, minus, values, ones, C: tl.constexpr):
    """Adds tokens to both halves' sums; features [tokens columns] are operands."""
    first, second = halves
    first = _absorb(first, plus, values, ones, C)
    if C.HALVES == 2:
        second = _absorb(second, minus, values, ones, C)
    return first, second


@triton.jit
def _absorb(half, features, values, ones, C: tl.constexpr):
    total, unit, peak = half
    features = tl.trans(features)
    return (tl.dot(features, values, total, input_precision=C.PRECISION),
            tl.dot(features, ones, unit, input_precision=C.PRECISION), peak)  # fmt: skip


@triton.jit
def key_features(y, keep, highest, columns, C: tl.constexpr):
    """Both halves of keys' features as operands, and with LOG the largest logarithm of each row so far."""
    plus, minus = map_halves(y, keep, 0.0, columns, C)
    if C.LOG:
        highest = tl.maximum(highest, largest(y, columns, C))
    return plus.to(C.OPERAND), minus.to(C.OPERAND), highest


@triton.jit
def sums_at_start(initial, segments, here, head, heads, columns, value_columns, C: tl.constexpr):
    """Both halves' sums over the keys before a walk."""
    sequence, _batch, _start, _stop, _end, first, slot, last = here
    until = slot if C.CAUSAL else last
    return sums_between(initial, segments, sequence, first, until, head, heads, columns, value_columns, C.HAS_INITIAL,
                        C)  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "mask_batch"])
def sum_keys(k, v, k_weight, k_bias, mask, ends, sums, key_sums, peaks, k_batch, k_head, k_row, v_batch, v_head, v_row,
             mask_batch, tokens, span, segments, sequences, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(k) vᵀ [slot head halves·WIDTH VALUES] and Σ φ(k) of a segment, and with LOG their peaks.

    With CAUSAL those of a sequence's last segment, which no other needs, are zero, as are those of an empty slot.
    Grid: slots, kv heads, tiles of values or of columns.
    """
    _sequence, batch, start, stop, end, _first, slot, last = locate(
        tl.program_id(0), ends, tokens, span, segments, sequences, C)  # fmt: skip
    stop = tl.where((start >= end) | (C.CAUSAL and slot + 1 == last), start, stop)
    head = tl.program_id(1).to(tl.int64)
    keys = (k + batch * k_batch + head * k_head, v + batch * v_batch + head * v_head, k_row, v_row)
    mask += batch * mask_batch
    dims, columns, value_columns, tile = tile_columns(C)
    place = (slot.to(tl.int64) * tl.num_programs(1) + head) * C.FEATURES
    mapping = load_map((k_weight, k_bias), head, dims, columns, C)
    halves = no_sums(0.0, C)
    ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    highest = row_of(0.0, C.CHUNK)
    for first in range(start, stop, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep, _x, values, y = load_keys(keys, mask, mapping, rows, stop, dims, value_columns, C)
        plus, minus, highest = key_features(y, keep, highest, columns, C)
        halves = absorb(halves, plus, minus, values, ones, C)
    write_halves((sums, key_sums, peaks), place, halves, columns, value_columns, tile, C.LOG, C)
    if C.LOG:
        if tl.max(highest, 0) > C.TAME:
            halves = no_sums(-1e30, C)
            for token in range(start, stop):
                halves = add_key(halves, keys, mask, (k_weight, k_bias), head, token, dims, columns, value_columns, C)
            write_halves((sums, key_sums, peaks), place, halves, columns, value_columns, tile, C.LOG, C)


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "mask_batch"])
def walk(q, k, v, q_weight, q_bias, k_weight, k_bias, mask, ends, initial, initial_keys, initial_peaks, sums, key_sums,
         peaks, final, final_keys, final_peaks, output, norms, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch,
         v_head, v_row, mask_batch, o_batch, o_head, o_row, tokens, span, segments, sequences, eps,
         C: tl.constexpr):  # fmt: skip
    """Outputs, each row's norm, and the sums over all keys of each sequence, which the walk of its last segment has.

    A norm is the row's denominator plus eps, or with LOG the logarithm of its denominator. Without NORMALIZE the output
    is the numerator, and the norm 1 (0 with LOG). Where columns take several tiles, numerators and denominators are
    added to what is in memory, undivided. Grid: slots, query heads, tiles of values.
    """
    here = locate(tl.program_id(0), ends, tokens, span, segments, sequences, C)
    batch, head, heads = here[1], tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if here[2] >= here[4]:
        return
    kv_head = head // C.GROUPS
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    rows = (q + batch * q_batch + head * q_head, output + batch * o_batch + head * o_head,
            norms + (batch * heads + head) * tokens, q_row, o_row)  # fmt: skip
    mask += batch * mask_batch
    maps, sums = ((q_weight, q_bias), (k_weight, k_bias)), (sums, key_sums, peaks)
    initial, final = (initial, initial_keys, initial_peaks), (final, final_keys, final_peaks)
    for column in range(0, C.WIDTH, C.BW):
        wild = _walk(rows, keys, mask, maps, initial, sums, final, here, head, heads // C.GROUPS, column, eps, C)
        if C.LOG:
            if wild > C.TAME:
                _walk_by_token(rows, keys, mask, maps, initial, sums, final, here, head, heads // C.GROUPS, eps, C)


@triton.jit
def _walk(queries, keys, mask, maps, initial, segments, final, here, head, kv_heads, column, eps, C: tl.constexpr):
    q, output, norms, q_row, o_row = queries
    start, stop, kv_head, tile = here[2], here[3], head // C.GROUPS, tl.program_id(2)
    dims, columns = column + tl.arange(0, C.BD), column + tl.arange(0, C.BW)
    value_columns = tile * C.BV + tl.arange(0, C.BV)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, C)
    halves, highest = tamed(halves, row_of(0.0, C.CHUNK), C)
    q_map, k_map = load_map(maps[0], head, dims, columns, C), load_map(maps[1], kv_head, dims, columns, C)
    ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    for row_first in range(start, stop, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        x = load_tile(q, rows, dims, q_row, stop, C.DIM, C.OPERAND)
        if C.CAUSAL:
            keep, _x, values, y = load_keys(keys, mask, k_map, rows, stop, dims, value_columns, C)
            k_plus, k_minus, highest = key_features(y, keep, highest, columns, C)
        q_plus, q_minus, scale = _weights(project(x, q_map, C), rows < stop, columns, C)
        q_plus, q_minus = q_plus.to(C.OPERAND), q_minus.to(C.OPERAND)
        if C.CAUSAL:
            scores = tl.dot(q_plus, tl.trans(k_plus), input_precision=C.PRECISION)
            if C.HALVES == 2:
                scores = tl.dot(q_minus, tl.trans(k_minus), scores, input_precision=C.PRECISION)
            scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
        numerator, denominator = _read(q_plus, q_minus, halves, C)
        if C.CAUSAL:
            weights = scores.to(C.OPERAND)
            numerator = tl.dot(weights, values, numerator, input_precision=C.PRECISION)
            denominator = tl.dot(weights, ones, denominator, input_precision=C.PRECISION)
            halves = absorb(halves, k_plus, k_minus, values, ones, C)
        divisor = tl.sum(denominator, 1) * (1.0 / C.UNIT)
        if C.WIDTH > C.BW:
            numerator += load_tile(output, rows, value_columns, o_row, stop, C.VALUES, tl.float32)
            divisor += tl.load(norms + rows, mask=rows < stop, other=0.0)
        finish(numerator, divisor, scale, output, norms, rows, value_columns, o_row, stop, eps, tile, C)
    _write_final(final, here, head, kv_heads, halves, columns, value_columns, tile, C)
    return tl.max(highest, 0)


@triton.jit
def _walk_by_token(queries, keys, mask, maps, initial, segments, final, here, head, kv_heads, eps, C: tl.constexpr):
    stop, kv_head = here[3], head // C.GROUPS
    dims, columns, value_columns, tile = tile_columns(C)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, columns, value_columns, C)
    for token in range(here[2], stop):
        if C.CAUSAL:
            halves = add_key(halves, keys, mask, maps[1], kv_head, token, dims, columns, value_columns, C)
        answer(queries, maps[0], head, token, halves, dims, columns, value_columns, stop, eps, tile, C)
    _write_final(final, here, head, kv_heads, halves, columns, value_columns, tile, C)


@triton.jit
def _write_final(final, here, head, kv_heads, halves, columns, value_columns, tile, C: tl.constexpr):
    if (here[6] + 1 == here[7]) & (head % C.GROUPS == 0):
        place = (here[0] * kv_heads + head // C.GROUPS) * C.FEATURES
        write_halves(final, place, halves, columns, value_columns, tile, C.LOG, C)


@triton.jit
def _weights(y, keep, columns, C: tl.constexpr):
    """Both halves of the queries' features, with LOG after a shift that makes each row's largest 1; and this shift."""
    scale = row_of(0.0, C.CHUNK)
    if C.LOG:
        scale = largest(y, columns, C) if C.HALVES == 2 else tl.max(only_real(y, columns, -1e30, C), 1)
    plus, minus = map_halves(y, keep, scale[:, None], columns, C)
    return plus, minus, scale


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


@triton.jit(do_not_specialize=["tokens"])
def decode_tokens(q, k, v, q_weight, q_bias, k_weight, k_bias, initial, initial_keys, initial_peaks, new_state,
                  new_keys, new_peaks, output, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
                  o_batch, o_head, o_row, tokens, eps, C: tl.constexpr):  # fmt: skip
    """Adds each token's key to the state, then reads the state with its queries: one token after another.

    A step reads and writes every number of the state once, so it takes about as long as a copy of the state. A program
    has all of one head's state, so nothing is read twice, and the new state may be the initial one. A state of more
    values than BV is changed a tile after another. Grid: batch, kv heads.
    """
    batch, kv_head, kv_heads = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
    place = (batch * kv_heads + kv_head) * C.FEATURES
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    for value_first in range(0, C.VALUES, C.BV):
        value_columns = value_first + tl.arange(0, C.BV)
        halves = read_halves((initial, initial_keys, initial_peaks), place, columns, value_columns, C)
        for token in range(tokens):
            halves = add_key(halves, keys, k, (k_weight, k_bias), kv_head, token, dims, columns, value_columns, C)
            for group in range(C.GROUPS):
                head = kv_head * C.GROUPS + group
                rows = (q + batch * q_batch + head * q_head, output + batch * o_batch + head * o_head, output, q_row,
                        o_row)  # fmt: skip
                answer(rows, (q_weight, q_bias), head, token, halves, dims, columns, value_columns, tokens, eps, 1, C)
        # Vectors are read anew for each tile of values, and change with the last.
        tile = tl.where(value_first + C.BV >= C.VALUES, 0, 1)
        write_halves((new_state, new_keys, new_peaks), place, halves, columns, value_columns, tile, C.LOG, C)
