"""Triton kernels for the outputs of linear attention with Hedgehog's map inside.

A program for each segment and head walks through the segment's tokens with the sums in registers. If there is more than
one segment, the sums of each over its keys are computed first. Features too many for a tile, of which there are only
plain ones, are walked through one tile of columns after another, and the output is added up in memory.

In log space a walk takes keys as they are. If a log feature of a key turns out not to be tame, it repeats the segment
one token after another, as decoding does.

`halves` are the sums of both halves of a map, three each (see `triton.states`), `here` is a segment, and `at` has a
program's columns.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton import features, states, tokens


@triton.jit
def largest(y, columns, C: tl.constexpr):
    """The largest absolute value of each row of y [rows columns]."""
    return tl.max(features.only_real(tl.abs(y), columns, 0.0, C), 1)


@triton.jit
def absorb(halves, plus, minus, values, ones, C: tl.constexpr):
    """Adds tokens to both halves' sums; features [tokens columns] are operands."""
    first, second = halves
    first = _absorb(first, plus, values, ones, C)
    if C.HALVES == 2:
        second = _absorb(second, minus, values, ones, C)
    return first, second


@triton.jit
def _absorb(half, phi, values, ones, C: tl.constexpr):
    total, unit, peak = half
    phi = tl.trans(phi)
    return (tl.dot(phi, values, total, input_precision=C.PRECISION),
            tl.dot(phi, ones, unit, input_precision=C.PRECISION), peak)  # fmt: skip


@triton.jit
def key_features(y, keep, highest, columns, C: tl.constexpr):
    """Both halves of keys' features as operands, and with LOG the largest logarithm of each row so far."""
    plus, minus = features.map_halves(y, keep, 0.0, columns, C)
    if C.LOG:
        highest = tl.maximum(highest, largest(y, columns, C))
    return plus.to(C.OPERAND), minus.to(C.OPERAND), highest


@triton.jit
def sums_at_start(initial, segments, here, head, heads, at, C: tl.constexpr):
    """Both halves' sums over the keys before a walk."""
    until = here.slot if C.CAUSAL else here.last
    return states.sums_between(initial, segments, here.sequence, here.first, until, head, heads, at, C)


@triton.jit(do_not_specialize=["sizes"])
def sum_keys(k, v, k_map, mask, ends, segments, sizes, C: tl.constexpr):
    """The sums Σ φ(k) vᵀ [slot head halves·WIDTH VALUES] and Σ φ(k) of a segment, and with LOG their peaks.

    With CAUSAL those of a sequence's last segment, which no other needs, are zero, as are those of an empty slot.
    Grid: slots, kv heads, tiles of values or of columns.
    """
    here, head = states.locate(tl.program_id(0), ends, sizes, C), tl.program_id(1).to(tl.int64)
    start = here.start
    stop = tl.where((start >= here.end) | (C.CAUSAL and here.slot + 1 == here.last), start, here.stop)
    keys = features.keys_of(k, v, mask, here.batch, head, sizes[0], C)
    at, tile = states.tile_columns(C)
    place = (here.slot.to(tl.int64) * tl.num_programs(1) + head) * C.FEATURES
    mapping = features.load_map(k_map, head, at, C)
    halves = states.no_sums(0.0, C)
    ones = features.filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    highest = features.vector_of(0.0, C.CHUNK)
    for first in range(start, stop, C.CHUNK):
        keep, x, values = features.load_keys(keys, first + tl.arange(0, C.CHUNK), stop, at, C)
        plus, minus, highest = key_features(features.project(x, mapping, C), keep, highest, at.phi, C)
        halves = absorb(halves, plus, minus, values, ones, C)
    states.write_halves(segments, place, halves, at, tile, C.LOG, C)
    if C.LOG:
        if tl.max(highest, 0) > C.TAME:
            halves = states.no_sums(-1e30, C)
            for token in range(start, stop):
                halves = tokens.add_key(halves, keys, k_map, head, token, at, C)
            states.write_halves(segments, place, halves, at, tile, C.LOG, C)


@triton.jit(do_not_specialize=["sizes"])
def walk(q, k, v, q_map, k_map, mask, ends, initial, segments, final, output, norms, sizes, eps, C: tl.constexpr):
    """Outputs, each row's norm, and the sums over all keys of each sequence, which the walk of its last segment has.

    A norm is the row's denominator plus eps, or with LOG the logarithm of its denominator. Without NORMALIZE the output
    is the numerator, and the norm 1 (0 with LOG). Where columns take several tiles, numerators and denominators are
    added to what is in memory, undivided. Grid: slots, query heads, tiles of values.
    """
    here = states.locate(tl.program_id(0), ends, sizes, C)
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if here.start >= here.end:
        return
    rows = (features.head_of(q, here.batch, head), features.head_of(output, here.batch, head),
            norms + (here.batch * heads + head) * sizes[0])  # fmt: skip
    keys = features.keys_of(k, v, mask, here.batch, head // C.GROUPS, sizes[0], C)
    maps, kv_heads = (q_map, k_map), heads // C.GROUPS
    for column in range(0, C.WIDTH, C.BW):
        wild = _walk(rows, keys, maps, initial, segments, final, here, head, kv_heads, column, eps, C)
        if C.LOG:
            if wild > C.TAME:
                _walk_by_token(rows, keys, maps, initial, segments, final, here, head, kv_heads, eps, C)


@triton.jit
def _walk(queries, keys, maps, initial, segments, final, here, head, kv_heads, column, eps, C: tl.constexpr):
    q, output, norms = queries
    stop, kv_head, tile = here.stop, head // C.GROUPS, tl.program_id(2)
    at = features.columns_from(column, tile * C.BV, C)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, at, C)
    halves, highest = states.tamed(halves, features.vector_of(0.0, C.CHUNK), C)
    q_map, k_map = features.load_map(maps[0], head, at, C), features.load_map(maps[1], kv_head, at, C)
    ones = features.filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    for row_first in range(here.start, stop, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        x = features.load_tile(q, rows, at.x, stop, C.DIM, C.OPERAND)
        if C.CAUSAL:
            keep, key, values = features.load_keys(keys, rows, stop, at, C)
            k_plus, k_minus, highest = key_features(features.project(key, k_map, C), keep, highest, at.phi, C)
        q_plus, q_minus, scale = _weights(features.project(x, q_map, C), rows < stop, at.phi, C)
        q_plus, q_minus = q_plus.to(C.OPERAND), q_minus.to(C.OPERAND)
        if C.CAUSAL:
            scores = tl.dot(q_plus, tl.trans(k_plus), input_precision=C.PRECISION)
            if C.HALVES == 2:
                scores = tl.dot(q_minus, tl.trans(k_minus), scores, input_precision=C.PRECISION)
            scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
        # By turns for both halves: numerators first would take more shared memory than there is at 128 dimensions.
        numerator = tl.dot(q_plus, halves[0][0].to(C.OPERAND), input_precision=C.PRECISION)
        denominator = tl.dot(q_plus, states.operand_of(halves[0][1], C), input_precision=C.PRECISION)
        if C.HALVES == 2:
            numerator = tl.dot(q_minus, halves[1][0].to(C.OPERAND), numerator, input_precision=C.PRECISION)
            unit = states.operand_of(halves[1][1], C)
            denominator = tl.dot(q_minus, unit, denominator, input_precision=C.PRECISION)
        if C.CAUSAL:
            weights = scores.to(C.OPERAND)
            numerator = tl.dot(weights, values, numerator, input_precision=C.PRECISION)
            denominator = tl.dot(weights, ones, denominator, input_precision=C.PRECISION)
            halves = absorb(halves, k_plus, k_minus, values, ones, C)
        divisor = tl.sum(denominator, 1) * (1.0 / C.UNIT)
        if C.WIDTH > C.BW:
            numerator += features.load_tile(output, rows, at.v, stop, C.VALUES, tl.float32)
            divisor += tl.load(norms + rows, mask=rows < stop, other=0.0)
        states.finish(numerator, divisor, scale, output, norms, rows, at.v, stop, eps, tile, C)
    _write_final(final, here, head, kv_heads, halves, at, tile, C)
    return tl.max(highest, 0)


@triton.jit
def _walk_by_token(queries, keys, maps, initial, segments, final, here, head, kv_heads, eps, C: tl.constexpr):
    kv_head = head // C.GROUPS
    at, tile = states.tile_columns(C)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, at, C)
    for token in range(here.start, here.stop):
        if C.CAUSAL:
            halves = tokens.add_key(halves, keys, maps[1], kv_head, token, at, C)
        tokens.answer(queries, maps[0], head, token, halves, at, here.stop, eps, tile, C)
    _write_final(final, here, head, kv_heads, halves, at, tile, C)


@triton.jit
def _write_final(final, here, head, kv_heads, halves, at, tile, C: tl.constexpr):
    if (here.slot + 1 == here.last) & (head % C.GROUPS == 0):
        place = (here.sequence * kv_heads + head // C.GROUPS) * C.FEATURES
        states.write_halves(final, place, halves, at, tile, C.LOG, C)


@triton.jit
def _weights(y, keep, columns, C: tl.constexpr):
    """Both halves of the queries' features, with LOG after a shift that makes each row's largest 1; and this shift."""
    scale = features.vector_of(0.0, C.CHUNK)
    if C.LOG:
        scale = largest(y, columns, C) if C.HALVES == 2 else tl.max(features.only_real(y, columns, -1e30, C), 1)
    plus, minus = features.map_halves(y, keep, scale[:, None], columns, C)
    return plus, minus, scale


@triton.jit(do_not_specialize=["sizes"])
def decode_tokens(q, k, v, q_map, k_map, initial, final, output, sizes, eps, C: tl.constexpr):
    """Adds each token's key to the state, then reads the state with its queries: one token after another.

    A step reads and writes every number of the state once, so it takes about as long as a copy of the state. A program
    has all of one head's state, so nothing is read twice, and the new state may be the initial one. A state of more
    values than BV is changed a tile after another. Grid: batch, kv heads.
    """
    batch, kv_head, kv_heads = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    keys = features.keys_of(k, v, k[0], batch, kv_head, sizes[0], C)
    for value_first in range(0, C.VALUES, C.BV):
        at = features.columns_from(0, value_first, C)
        halves = states.sums_between(initial, initial, batch, 0, 0, kv_head, kv_heads, at, C)
        for token in range(sizes[0]):
            halves = tokens.add_key(halves, keys, k_map, kv_head, token, at, C)
            for group in range(C.GROUPS):
                head = kv_head * C.GROUPS + group
                rows = (features.head_of(q, batch, head), features.head_of(output, batch, head), output[0])
                tokens.answer(rows, q_map, head, token, halves, at, sizes[0], eps, 1, C)
        # Vectors are read anew for each tile of values, and change with the last.
        tile = tl.where(value_first + C.BV >= C.VALUES, 0, 1)
        states.write_halves(final, (batch * kv_heads + kv_head) * C.FEATURES, halves, at, tile, C.LOG, C)
