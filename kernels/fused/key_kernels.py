"""Triton kernels for the gradients of keys and values, and of maps; see `query_kernels`.

A walk from the end of each segment gives them, from the sums over the queries after a chunk. In log space these sums
are those of exp(log φ(q) - norm), which is at most exp(-log φ(k)) for any key k that the query sees.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton import features, states, tokens
from .forward_kernels import absorb, largest
from .query_kernels import query_weights, through_half


@triton.jit(do_not_specialize=["sizes", "slots_before"])
def key_walk(q, k, v, grad, q_map, k_map, mask, ends, initial, query_sums, last, norms, pulls, grad_x, grad_v, grad_map,
             grad_initial, sizes, slots_before, C: tl.constexpr):  # fmt: skip
    """The gradients of k, v and the sums of the initial state, and each program's share of those of W and b.

    `last` is the gradient of the sums after the last key, with minus their peaks. Where columns take several tiles,
    the gradient of v is added to what is in memory. Grid: slots after `slots_before`, kv heads.
    """
    here = states.locate(slots_before + tl.program_id(0), ends, sizes, C)
    batch, head, heads = here.batch, tl.program_id(1).to(tl.int64), tl.num_programs(1)
    row_base = batch * heads * C.GROUPS * sizes[0]
    queries = (features.entry_of(q, batch), features.entry_of(grad, batch), norms + row_base, pulls + row_base,
               sizes[0])  # fmt: skip
    keys = features.keys_of(k, v, mask, batch, head, sizes[0], C)
    into = (features.head_of(grad_x, batch, head), features.head_of(grad_v, batch, head))
    maps, first = (q_map, k_map), (grad_initial[0], grad_initial[1], initial[2])
    for column in range(0, C.WIDTH, C.BW):
        wild, found = _key_walk(queries, keys, into, maps, query_sums, last, first, here, head, heads, column, C)
        if C.LOG and wild > C.TAME:
            _key_walk_by_token(queries, keys, into, maps, query_sums, last, first, here, head, heads, grad_map,
                               slots_before, C)  # fmt: skip
        else:
            features.add_to_map(grad_map, slots_before, found, C)


@triton.jit
def _key_walk(queries, keys, into, maps, segments, last, first, here, head, heads, column, C: tl.constexpr):
    at = features.columns_from(column, 0, C)
    halves = _sums_at_end(segments, last, here, head, heads, at, C)
    highest = features.vector_of(0.0, C.CHUNK)
    if C.LOG:
        halves = states.without_peaks(halves, (0.0, 0.0), C)
        peak, other = states.peaks_before(first[2], segments[2], here.sequence, 0, 0, head, heads, at.phi, C)
        highest += states.wildness(peak, other, C)
    grad_map = features.no_gradient(C)
    chunks = (here.stop - here.start + C.CHUNK - 1) // C.CHUNK
    for index in range(chunks):
        rows = here.start + (chunks - 1 - index) * C.CHUNK + tl.arange(0, C.CHUNK)
        halves, highest, grad_map = _key_chunk(queries, keys, into, maps, head, rows, here.stop, halves, highest,
                                               grad_map, at, C)  # fmt: skip
    _write_initial(first, here, head, heads, halves, at, C)
    return tl.max(highest, 0), grad_map


@triton.jit
def _sums_at_end(segments, last, here, head, heads, at, C: tl.constexpr):
    """Both halves' sums over the queries after a segment."""
    after = here.slot + 1 if C.CAUSAL else here.first
    return states.sums_between(last, segments, here.sequence, after, here.last, head, heads, at, C)


@triton.jit
def _write_initial(initial, here, head, heads, halves, at, C: tl.constexpr):
    """Stores the gradient of the initial state's sums, if this is its sequence's first segment."""
    if initial[0] is not None:
        if here.slot == here.first:
            if C.LOG:
                peaks = states.peaks_before(initial[2], initial[2], here.sequence, 0, 0, head, heads, at.phi, C)
                halves = states.without_peaks(halves, peaks, C)
            states.write_halves(initial, (here.sequence * heads + head) * C.FEATURES, halves, at, 0, False, C)


@triton.jit
def _key_chunk(queries, keys, into, maps, head, rows, stop, halves, highest, grad_map, at, C: tl.constexpr):
    """Stores the gradients of a chunk's keys and values, and adds its queries to the sums."""
    grad_x, grad_v = into
    mapping = features.load_map(maps[1], head, at, C)
    keep, x, values = features.load_keys(keys, rows, stop, at, C)
    logs = features.project(x, mapping, C)
    k_plus, k_minus = features.map_halves(logs, keep, 0.0, at.phi, C)
    if C.LOG:
        highest = tl.maximum(highest, largest(logs, at.phi, C))
    plus, minus = k_plus.to(C.OPERAND), k_minus.to(C.OPERAND)
    if C.LATE:
        grads, halves = _late_pairs(queries, maps[0], head, rows, stop, plus, minus, values, halves, at, C)
    else:
        grads = _from_sums(values, plus, minus, halves, C)
        if C.CAUSAL:
            for group in range(C.GROUPS):
                grads, halves = _pairs(queries, maps[0], head * C.GROUPS + group, rows, stop, plus, minus, values,
                                       grads, halves, at, C)  # fmt: skip
    grad_y, grad_values = features.map_gradient(k_plus, k_minus, grads[0], grads[1], C), grads[2]
    if C.HAS_MASK:
        grad_y = tl.where(keep[:, None], grad_y, 0.0)
        grad_values = tl.where(keep[:, None], grad_values, 0.0)
    if C.WIDTH > C.BW:
        grad_values += features.load_tile(grad_v, rows, at.v, stop, C.VALUES, tl.float32)
    features.store_tile(grad_v, grad_values, rows, at.v, stop, C.VALUES)
    # Keys and W are read again: shared memory has no room for them until here at 128 dimensions.
    x = features.load_kept(keys[0], rows, at.x, stop, keep, C.DIM, C)
    found, grad_map = features.through_map(x, grad_y, features.load_map(maps[1], head, at, C), grad_map, C)
    features.store_tile(grad_x, found, rows, at.x, stop, C.DIM)
    return halves, highest, grad_map


@triton.jit
def _from_sums(values, plus, minus, halves, C: tl.constexpr):
    """The gradients of both halves of a chunk's features, and of its values, by the queries after the chunk."""
    mean = features.filled(1.0 / C.UNIT / C.UNIT, C.CHUNK, C.UNIT, C.OPERAND)
    grad_plus = through_half(values, mean, _summed(halves[0], C), C)
    grad_minus = grad_plus
    grad_values = tl.dot(plus, halves[0][0].to(C.OPERAND), input_precision=C.PRECISION)
    if C.HALVES == 2:
        grad_minus = through_half(values, mean, _summed(halves[1], C), C)
        grad_values = tl.dot(minus, halves[1][0].to(C.OPERAND), grad_values, input_precision=C.PRECISION)
    return grad_plus, grad_minus, grad_values


@triton.jit
def _summed(half, C: tl.constexpr):
    """One half's sums, in whose vector all columns are their sum."""
    return half[0], states.in_columns(tl.sum(half[1], 1), C)


@triton.jit
def _load_queries(queries, q_map, head, rows, stop, values, halves, at, C: tl.constexpr):
    """Both halves of the features of a chunk's queries, g as an operand, h, and the slopes of all pairs."""
    q, grad, norms, pulls, length = queries
    x = features.load_tile(features.head_of(q, 0, head), rows, at.x, stop, C.DIM, C.OPERAND)
    given = features.load_tile(features.head_of(grad, 0, head), rows, at.v, stop, C.VALUES, tl.float32)
    pull = tl.load(pulls + head * length + rows, mask=rows < stop, other=0.0)
    norm, given, pull = states.row_gradients(norms + head * length, pull, given, rows, stop, C)
    y = features.project(x, features.load_map(q_map, head, at, C), C)
    slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
    q_plus, q_minus = query_weights(y, norm, rows < stop, halves, at.phi, False, C)
    # Features of hidden keys and of queries past the end are zero, so what their slopes are does not matter.
    slopes = tl.where(rows[:, None] >= rows[None, :], slopes, 0.0)
    return q_plus, q_minus, given, pull, slopes


@triton.jit
def _late_pairs(queries, q_map, head, rows, stop, plus, minus, values, halves, at, C: tl.constexpr):
    """`_from_sums` and `_pairs` of the only head, in an order that takes fewer registers, by count."""
    q_plus, q_minus, given, pull, slopes = _load_queries(queries, q_map, head, rows, stop, values, halves, at, C)
    q_plus, q_minus, pulled = q_plus.to(C.OPERAND), q_minus.to(C.OPERAND), states.spread(pull, C.UNIT, C)
    scores, weights = tl.dot(q_plus, tl.trans(plus), input_precision=C.PRECISION), slopes.to(C.OPERAND)
    if C.HALVES == 2:
        scores = tl.dot(q_minus, tl.trans(minus), scores, input_precision=C.PRECISION)
    scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0).to(C.OPERAND)
    if C.BD <= 64:  # else shared memory has no room for them beside the sums
        weights, scores = tl.trans(weights), tl.trans(scores)
    grad_plus, grad_minus, grad_values = _from_sums(values, plus, minus, halves, C)
    if C.BD > 64:
        weights, scores = tl.trans(weights), tl.trans(scores)
    grad_plus = tl.dot(weights, q_plus, grad_plus, input_precision=C.PRECISION)
    if C.HALVES == 2:
        grad_minus = tl.dot(weights, q_minus, grad_minus, input_precision=C.PRECISION)
    grad_values = tl.dot(scores, given, grad_values, input_precision=C.PRECISION)
    return (grad_plus, grad_minus, grad_values), absorb(halves, q_plus, q_minus, given, pulled, C)


@triton.jit
def _pairs(queries, q_map, head, rows, stop, plus, minus, values, grads, halves, at, C: tl.constexpr):
    """Adds what a chunk's queries of one head give its keys and values, and the queries to the sums over queries.

    An operand takes shared memory from where it is made, and few fit beside those of keys and values.
    """
    grad_plus, grad_minus, grad_values = grads
    q_plus, q_minus, given, pull, slopes = _load_queries(queries, q_map, head, rows, stop, values, halves, at, C)
    weights, q_plus = tl.trans(slopes).to(C.OPERAND), q_plus.to(C.OPERAND)
    scores = tl.dot(q_plus, tl.trans(plus), input_precision=C.PRECISION)
    grad_plus = tl.dot(weights, q_plus, grad_plus, input_precision=C.PRECISION)
    q_minus = q_minus.to(C.OPERAND)
    if C.HALVES == 2:
        scores = tl.dot(q_minus, tl.trans(minus), scores, input_precision=C.PRECISION)
        grad_minus = tl.dot(weights, q_minus, grad_minus, input_precision=C.PRECISION)
    scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
    grad_values = tl.dot(tl.trans(scores).to(C.OPERAND), given, grad_values, input_precision=C.PRECISION)
    pulled = states.spread(pull, C.UNIT, C)
    return (grad_plus, grad_minus, grad_values), absorb(halves, q_plus, q_minus, given, pulled, C)


@triton.jit(noinline=True)
def _key_walk_by_token(queries, keys, into, maps, segments, last, first, here, head, heads, grad_map, slots_before,
                       C: tl.constexpr):  # fmt: skip
    """What `_key_walk` does, one token after another; only in log space."""
    q, grad, norms, pulls, length = queries
    grad_x, grad_v = into
    at = features.columns_from(0, 0, C)
    halves = _sums_at_end(segments, last, here, head, heads, at, C)
    shares = features.no_gradient(C)
    for index in range(here.stop - here.start):
        token = here.stop - 1 - index
        if C.CAUSAL:
            for group in range(C.GROUPS):
                query_head = head * C.GROUPS + group
                place, x = query_head * length + token, features.row_of(features.head_of(q, 0, query_head), token)
                plus, minus = tokens.token_features(x, True, maps[0], query_head, at, C)
                norm, given = tl.load(norms + place), features.row_of(features.head_of(grad, 0, query_head), token)
                given = features.load_vector(given, at.v, C.VALUES, 0.0)
                halves = tokens.add_token(halves, plus - norm, minus - norm, given, -tl.load(pulls + place), C)
        keep, x, values = tokens.load_token(keys, token, at, C)
        plus, minus = tokens.token_features(x, keep, maps[1], head, at, C)
        plus, minus, grad_y = tokens.pulled_back(plus, minus, halves, values, 1.0, C)
        grad_values = tl.sum(plus[:, None] * halves[0][0], 0)
        if C.HALVES == 2:
            grad_values += tl.sum(minus[:, None] * halves[1][0], 0)
        tl.store(features.row_of(grad_v, token) + at.v, grad_values.to(grad_v[0].dtype.element_ty),
                 mask=at.v < C.VALUES)  # fmt: skip
        shares = tokens.token_through_map(x, keep, grad_y, maps[1], head, shares, features.row_of(grad_x, token), at, C)
    _write_initial(first, here, head, heads, halves, at, C)
    features.add_to_map(grad_map, slots_before, shares, C)
