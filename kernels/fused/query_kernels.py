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

from ..triton import features, states, tokens
from .forward_kernels import absorb, key_features, sums_at_start


@triton.jit
def through_half(given, pull, half, C: tl.constexpr):
    """The gradient [rows columns] of features that were multiplied with one half of a sum; `pull` adds up to h."""
    grad = tl.dot(given, tl.trans(half[0].to(C.OPERAND)), input_precision=C.PRECISION)
    return tl.dot(pull, tl.trans(states.operand_of(half[1], C)), grad, input_precision=C.PRECISION)


@triton.jit(do_not_specialize=["sizes", "slots_before"])
def query_walk(q, k, v, output, grad, q_map, k_map, mask, ends, initial, segments, norms, pulls, grad_x, grad_map,
               sizes, slots_before, C: tl.constexpr):  # fmt: skip
    """The gradient of q, each program's share of those of W and b, and with NORMALIZE o·do of each row for `key_walk`.

    Grid: slots after `slots_before`, query heads, tiles of columns.
    """
    here = states.locate(slots_before + tl.program_id(0), ends, sizes, C)
    batch, head, heads = here.batch, tl.program_id(1).to(tl.int64), tl.num_programs(1)
    row_base = (batch * heads + head) * sizes[0]
    rows = (features.head_of(q, batch, head), features.head_of(output, batch, head),
            features.head_of(grad, batch, head), norms + row_base, pulls + row_base,
            features.head_of(grad_x, batch, head))  # fmt: skip
    keys = features.keys_of(k, v, mask, batch, head // C.GROUPS, sizes[0], C)
    maps, kv_heads = (q_map, k_map), heads // C.GROUPS
    wild, found = _query_walk(rows, keys, maps, initial, segments, here, head, kv_heads, C)
    if C.LOG and wild > C.TAME:
        _query_walk_by_token(rows, keys, maps, initial, segments, here, head, kv_heads, grad_map, slots_before, C)
    else:
        features.add_to_map(grad_map, slots_before, found, C)


@triton.jit
def _query_walk(queries, keys, maps, initial, segments, here, head, kv_heads, C: tl.constexpr):
    q, output, grad, norms, pulls, grad_x = queries
    stop, kv_head = here.stop, head // C.GROUPS
    at = features.columns_from(tl.program_id(2) * C.BW if C.WIDTH > C.BW else 0, 0, C)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, at, C)
    halves, highest = states.tamed(halves, features.vector_of(0.0, C.CHUNK), C)
    q_map, k_map = features.load_map(maps[0], head, at, C), features.load_map(maps[1], kv_head, at, C)
    ones = features.filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
    grad_map = features.no_gradient(C)
    for row_first in range(here.start, stop, C.CHUNK):
        rows = row_first + tl.arange(0, C.CHUNK)
        given = features.load_tile(grad, rows, at.v, stop, C.VALUES, tl.float32)
        if C.NORMALIZE:
            attended = features.load_tile(output, rows, at.v, stop, C.VALUES, tl.float32)
            pull = tl.sum(given * attended, 1)
            tl.store(pulls + rows, pull, mask=rows < stop)
        else:
            pull = features.vector_of(0.0, C.CHUNK)
        norm, given, pull = states.row_gradients(norms, pull, given, rows, stop, C)
        pulled = states.spread(pull, 1, C)
        grad_plus = through_half(given, pulled, halves[0], C)
        grad_minus = through_half(given, pulled, halves[1], C) if C.HALVES == 2 else grad_plus
        x = features.load_tile(q, rows, at.x, stop, C.DIM, C.OPERAND)
        if C.CAUSAL:
            keep, key, values = features.load_keys(keys, rows, stop, at, C)
            if C.CROWDED:
                k_map = features.load_map(maps[1], kv_head, at, C)
            y = features.project(key, k_map, C)
            slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
            # Features of hidden keys are zero, so what their slopes are does not matter.
            weights = tl.where(rows[:, None] >= rows[None, :], slopes, 0.0).to(C.OPERAND)
            plus, minus, highest = key_features(y, keep, highest, at.phi, C)
            grad_plus = tl.dot(weights, plus, grad_plus, input_precision=C.PRECISION)
            if C.HALVES == 2:
                grad_minus = tl.dot(weights, minus, grad_minus, input_precision=C.PRECISION)
            halves = absorb(halves, plus, minus, values, ones, C)
        q_plus, q_minus = query_weights(features.project(x, q_map, C), norm, rows < stop, halves, at.phi, False, C)
        grad_y = features.map_gradient(q_plus, q_minus, grad_plus, grad_minus, C)
        found, grad_map = features.through_map(x, grad_y, q_map, grad_map, C)
        features.store_tile(grad_x, found, rows, at.x, stop, C.DIM)
    return tl.max(highest, 0), grad_map


@triton.jit(noinline=True)
def _query_walk_by_token(queries, keys, maps, initial, segments, here, head, kv_heads, grad_map, slots_before,
                         C: tl.constexpr):  # fmt: skip
    """What `_query_walk` does, one token after another; only in log space, where the gradient of a numerator is do."""
    q, _output, grad, norms, pulls, grad_x = queries
    kv_head, at = head // C.GROUPS, features.columns_from(0, 0, C)
    halves = sums_at_start(initial, segments, here, kv_head, kv_heads, at, C)
    shares = features.no_gradient(C)
    for token in range(here.start, here.stop):
        if C.CAUSAL:
            halves = tokens.add_key(halves, keys, maps[1], kv_head, token, at, C)
        x, into, norm = features.row_of(q, token), features.row_of(grad_x, token), tl.load(norms + token)
        plus, minus = tokens.token_features(x, True, maps[0], head, at, C)
        given = features.load_vector(features.row_of(grad, token), at.v, C.VALUES, 0.0)
        _plus, _minus, grad_y = tokens.pulled_back(plus - norm, minus - norm, halves, given, -tl.load(pulls + token), C)
        shares = tokens.token_through_map(x, True, grad_y, maps[0], head, shares, into, at, C)
    features.add_to_map(grad_map, slots_before, shares, C)


@triton.jit
def query_weights(y, norm, keep, halves, columns, SHIFTED: tl.constexpr, C: tl.constexpr):
    """Both halves of the queries' features; with LOG exp(log φ(q) - norm), less the peak if SHIFTED."""
    if C.LOG:
        base = tl.where(keep, norm * C.LOG2_E, 1e30)[:, None]
        plus, minus = y * C.LOG2_E - base, y * -C.LOG2_E - base
        if SHIFTED:
            plus, minus = plus - halves[0][2][None, :] * C.LOG2_E, minus - halves[1][2][None, :] * C.LOG2_E
        plus = features.only_real(tl.exp2(tl.minimum(plus, 115.0)), columns, 0.0, C)
        minus = features.only_real(tl.exp2(tl.minimum(minus, 115.0)), columns, 0.0, C)
    else:
        plus, minus = features.map_halves(y, keep, 0.0, columns, C)
    return plus, minus


@triton.jit(do_not_specialize=["sizes"])
def sum_queries(q, grad, q_map, ends, initial, segments, query_sums, norms, pulls, sizes, C: tl.constexpr):
    """The sums Σ φ(q) gᵀ and Σ φ(q) h of a segment's queries, over the query heads of a kv head.

    With LOG, φ(q) here means exp(log φ(q) - norm), whose peak is minus that of the keys before the segment (CAUSAL) or
    of the whole sequence, 0 if it is tame. With CAUSAL the sums of a sequence's first segment are left out.
    Grid: slots, kv heads, tiles of values or of columns.
    """
    here = states.locate(tl.program_id(0), ends, sizes, C)
    if here.start >= here.end or (C.CAUSAL and here.slot == here.first):
        return
    head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    at, tile = states.tile_columns(C)
    halves = states.no_sums(0.0, C)
    if C.LOG:
        until = here.slot if C.CAUSAL else here.last
        peak, other = states.peaks_before(initial[2], segments[2], here.sequence, here.first, until, head, kv_heads,
                                   at.phi, C)  # fmt: skip
        wild = states.wildness(peak, other, C) > C.TAME
        peak, other = tl.where(wild, peak, 0.0), tl.where(wild, other, 0.0)
        halves = (halves[0][0], halves[0][1], -peak), (halves[1][0], halves[1][1], -other)
    for group in range(C.GROUPS):
        query_head = head * C.GROUPS + group
        mapping = features.load_map(q_map, query_head, at, C)
        queries, grads = features.head_of(q, here.batch, query_head), features.head_of(grad, here.batch, query_head)
        row_base = (here.batch * kv_heads * C.GROUPS + query_head) * sizes[0]
        for row_first in range(here.start, here.stop, C.CHUNK):
            rows = row_first + tl.arange(0, C.CHUNK)
            x = features.load_tile(queries, rows, at.x, here.stop, C.DIM, C.OPERAND)
            given = features.load_tile(grads, rows, at.v, here.stop, C.VALUES, tl.float32)
            pull = tl.load(pulls + row_base + rows, mask=rows < here.stop, other=0.0)
            norm, given, pull = states.row_gradients(norms + row_base, pull, given, rows, here.stop, C)
            y = features.project(x, mapping, C)
            plus, minus = query_weights(y, norm, rows < here.stop, halves, at.phi, True, C)
            halves = absorb(halves, plus.to(C.OPERAND), minus.to(C.OPERAND), given, states.spread(pull, C.UNIT, C), C)
    place = (here.slot.to(tl.int64) * kv_heads + head) * C.FEATURES
    states.write_halves(query_sums, place, halves, at, tile, C.LOG, C)
