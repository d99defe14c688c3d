"""Triton kernels for the gradients of keys and values, and of maps; see `query_kernels`.

A walk from the end of each segment gives them, from the sums over the queries after a chunk. In log space these sums
are those of exp(log φ(q) - norm), which is at most exp(-log φ(k)) for any key k that the query sees.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..triton.features import (
    add_to_map,
    filled,
    load_keep,
    load_keys,
    load_map,
    load_tile,
    load_values,
    load_vector,
    map_gradient,
    map_halves,
    no_gradient,
    project,
    row_of,
    store_tile,
    through_map,
)
from ..triton.states import (
    in_columns,
    load_row_gradients,
    locate,
    peaks_before,
    spread,
    sums_between,
    wildness,
    without_peaks,
    write_halves,
)
from ..triton.tokens import add_token, pulled_back, token_features, token_through_map
from .forward_kernels import absorb, largest
from .query_kernels import query_weights, through_state


@triton.jit(do_not_specialize=["tokens", "span", "segments", "sequences", "slots_before", "mask_batch"])
def key_walk(q, k, v, grad, q_weight, q_bias, k_weight, k_bias, mask, ends, initial_peaks, query_sums, query_units,
             query_peaks, last, last_units, last_peaks, norms, pulls, grad_x, grad_v, grad_weight, grad_bias,
             grad_initial, grad_initial_keys, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
             mask_batch, grad_batch, grad_head, grad_row, dx_batch, dx_head, dx_row, dv_batch, dv_head, dv_row,
             tokens, span, segments, sequences, slots_before, C: tl.constexpr, HAS_LAST: tl.constexpr):  # fmt: skip
    """The gradients of k, v and the sums of the initial state, and each program's share of those of W and b.

    `last` is the gradient of the sums after the last key, with minus their peaks. Where columns take several tiles,
    the gradient of v is added to what is in memory. Grid: slots after `slots_before`, kv heads.
    """
    here = locate(slots_before + tl.program_id(0), ends, tokens, span, segments, sequences, C)
    batch, kv_head, kv_heads = here[1], tl.program_id(1).to(tl.int64), tl.num_programs(1)
    keys = (k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head, k_row, v_row)
    into = (grad_x + batch * dx_batch + kv_head * dx_head, grad_v + batch * dv_batch + kv_head * dv_head, dx_row,
            dv_row, (grad_weight, grad_bias, slots_before))  # fmt: skip
    row_base = batch * kv_heads * C.GROUPS * tokens
    queries = (q + batch * q_batch, grad + batch * grad_batch, norms + row_base, pulls + row_base, q_head, grad_head,
               tokens, q_row, grad_row)  # fmt: skip
    mask += batch * mask_batch
    maps, sums = ((q_weight, q_bias), (k_weight, k_bias)), (query_sums, query_units, query_peaks)
    last, initial = (last, last_units, last_peaks), (grad_initial, grad_initial_keys, initial_peaks)
    for column in range(0, C.WIDTH, C.BW):
        wild, grad_map = _key_walk(queries, keys, mask, into, maps, sums, last, initial, here, kv_head, kv_heads,
                                   column, HAS_LAST, C)  # fmt: skip
        if C.LOG and wild > C.TAME:
            _key_walk_by_token(queries, keys, mask, into, maps, sums, last, initial, here, kv_head, kv_heads, HAS_LAST,
                               C)  # fmt: skip
        else:
            add_to_map(into[4], grad_map, C)


@triton.jit
def _key_walk(queries, keys, mask, into, maps, segments, last, initial, here, kv_head, kv_heads, column,
              HAS_LAST: tl.constexpr, C: tl.constexpr):  # fmt: skip
    start, stop = here[2], here[3]
    dims, columns, value_columns = column + tl.arange(0, C.BD), column + tl.arange(0, C.BW), tl.arange(0, C.BV)
    halves = _sums_at_end(segments, last, here, kv_head, kv_heads, columns, value_columns, HAS_LAST, C)
    highest = row_of(0.0, C.CHUNK)
    if C.LOG:
        halves = without_peaks(halves, (0.0, 0.0), C)
        peak, other = peaks_before(initial[2], initial[2], here[0], 0, 0, kv_head, kv_heads, columns, C)
        highest += wildness(peak, other, C)
    grad_map = no_gradient(C)
    chunks = (stop - start + C.CHUNK - 1) // C.CHUNK
    for index in range(chunks):
        rows = start + (chunks - 1 - index) * C.CHUNK + tl.arange(0, C.CHUNK)
        halves, highest, grad_map = _key_chunk(queries, keys, mask, into, maps, kv_head, rows, stop, halves, highest,
                                               grad_map, dims, columns, value_columns, C)  # fmt: skip
    _write_initial(initial, here, kv_head, kv_heads, halves, columns, value_columns, C)
    return tl.max(highest, 0), grad_map


@triton.jit
def _sums_at_end(segments, last, here, kv_head, kv_heads, columns, value_columns, HAS_LAST: tl.constexpr,
                 C: tl.constexpr):  # fmt: skip
    """Both halves' sums over the queries after a segment."""
    sequence, _batch, _start, _stop, _end, first, slot, until = here
    return sums_between(last, segments, sequence, slot + 1 if C.CAUSAL else first, until, kv_head, kv_heads, columns,
                        value_columns, HAS_LAST, C)  # fmt: skip


@triton.jit
def _write_initial(initial, here, kv_head, kv_heads, halves, columns, value_columns, C: tl.constexpr):
    """Stores the gradient of the initial state's sums, if this is its sequence's first segment."""
    if C.HAS_INITIAL:
        if here[6] == here[5]:
            place = (here[0] * kv_heads + kv_head) * C.FEATURES
            if C.LOG:
                peaks = peaks_before(initial[2], initial[2], here[0], 0, 0, kv_head, kv_heads, columns, C)
                halves = without_peaks(halves, peaks, C)
            write_halves(initial, place, halves, columns, value_columns, 0, False, C)


@triton.jit
def _key_chunk(queries, keys, mask, into, maps, kv_head, rows, stop, halves, highest, grad_map, dims, columns,
               value_columns, C: tl.constexpr):  # fmt: skip
    """Stores the gradients of a chunk's keys and values, and adds its queries to the sums."""
    grad_x, grad_v, dx_row, dv_row, _share = into
    mapping = load_map(maps[1], kv_head, dims, columns, C)
    keep, _x, values, logs = load_keys(keys, mask, mapping, rows, stop, dims, value_columns, C)
    k_plus, k_minus = map_halves(logs, keep, 0.0, columns, C)
    if C.LOG:
        highest = tl.maximum(highest, largest(logs, columns, C))
    plus, minus = k_plus.to(C.OPERAND), k_minus.to(C.OPERAND)
    if C.LATE:
        grads, halves = _late_pairs(queries, maps[0], kv_head, rows, stop, plus, minus, values, halves, dims, columns,
                                    value_columns, C)  # fmt: skip
    else:
        grads = _from_sums(values, plus, minus, halves, C)
        if C.CAUSAL:
            for group in range(C.GROUPS):
                grads, halves = _pairs(queries, maps[0], kv_head * C.GROUPS + group, rows, stop, plus, minus, values,
                                       grads, halves, dims, columns, value_columns, C)  # fmt: skip
    grad_y = map_gradient(k_plus, k_minus, grads[0], grads[1], C)
    grad_values = grads[2]
    if C.HAS_MASK:
        grad_y = tl.where(keep[:, None], grad_y, 0.0)
        grad_values = tl.where(keep[:, None], grad_values, 0.0)
    if C.WIDTH > C.BW:
        grad_values += load_tile(grad_v, rows, value_columns, dv_row, stop, C.VALUES, tl.float32)
    store_tile(grad_v, grad_values, rows, value_columns, dv_row, stop, C.VALUES)
    # Keys and W are read again: shared memory has no room for them until here at 128 dimensions.
    x = load_values(keys[0], rows, dims, keys[2], stop, keep, C.DIM, C.OPERAND, C.HAS_MASK)
    found, grad_map = through_map(x, grad_y, load_map(maps[1], kv_head, dims, columns, C), grad_map, C)
    store_tile(grad_x, found, rows, dims, dx_row, stop, C.DIM)
    return halves, highest, grad_map


@triton.jit
def _from_sums(values, plus, minus, halves, C: tl.constexpr):
    """The gradients of both halves of a chunk's features and of its values by the queries after the chunk."""
    mean = filled(1.0 / C.UNIT / C.UNIT, C.CHUNK, C.UNIT, C.OPERAND)
    grad_plus = through_state(values, mean, _summed(halves[0], C), C)
    grad_minus = grad_plus
    grad_values = tl.dot(plus, halves[0][0].to(C.OPERAND), input_precision=C.PRECISION)
    if C.HALVES == 2:
        grad_minus = through_state(values, mean, _summed(halves[1], C), C)
        grad_values = tl.dot(minus, halves[1][0].to(C.OPERAND), grad_values, input_precision=C.PRECISION)
    return grad_plus, grad_minus, grad_values


@triton.jit
def _summed(half, C: tl.constexpr):
    """One half's sums, in whose vector all columns are their sum."""
    return half[0], in_columns(tl.sum(half[1], 1), C)


@triton.jit
def _load_queries(queries, q_map, head, rows, stop, values, halves, dims, columns, value_columns, C: tl.constexpr):
    """Both halves of the features of a chunk's queries as operands, g, h as an operand, and the slopes of all pairs."""
    q, grad, norms, pulls, q_head, grad_head, tokens, q_row, grad_row = queries
    x = load_tile(q + head * q_head, rows, dims, q_row, stop, C.DIM, C.OPERAND)
    given = load_tile(grad + head * grad_head, rows, value_columns, grad_row, stop, C.VALUES, tl.float32)
    norm, given, pull = load_row_gradients(norms + head * tokens, pulls + head * tokens, given, rows, stop, C)
    y = project(x, load_map(q_map, head, dims, columns, C), C)
    slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION) + pull[:, None]
    q_plus, q_minus = query_weights(y, norm, rows < stop, halves, columns, False, C)
    # Features of hidden keys and of queries past the end are zero, so what their slopes are does not matter.
    slopes = tl.where(rows[:, None] >= rows[None, :], slopes, 0.0)
    return q_plus.to(C.OPERAND), q_minus.to(C.OPERAND), given, spread(pull, C.UNIT, C), slopes


@triton.jit
def _late_pairs(queries, q_map, head, rows, stop, plus, minus, values, halves, dims, columns, value_columns,
                C: tl.constexpr):  # fmt: skip
    """`_from_sums` and `_pairs` of the only head, in an order that takes fewer registers, by count."""
    q_plus, q_minus, given, pulled, slopes = _load_queries(queries, q_map, head, rows, stop, values, halves, dims,
                                                           columns, value_columns, C)  # fmt: skip
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
def _pairs(queries, q_map, head, rows, stop, plus, minus, values, grads, halves, dims, columns, value_columns,
           C: tl.constexpr):  # fmt: skip
    """Adds what a chunk's queries of one head give its keys and values, and the queries to the sums over queries."""
    grad_plus, grad_minus, grad_values = grads
    q_plus, q_minus, given, pulled, slopes = _load_queries(queries, q_map, head, rows, stop, values, halves, dims,
                                                           columns, value_columns, C)  # fmt: skip
    weights = tl.trans(slopes).to(C.OPERAND)
    scores = tl.dot(q_plus, tl.trans(plus), input_precision=C.PRECISION)
    grad_plus = tl.dot(weights, q_plus, grad_plus, input_precision=C.PRECISION)
    if C.HALVES == 2:
        scores = tl.dot(q_minus, tl.trans(minus), scores, input_precision=C.PRECISION)
        grad_minus = tl.dot(weights, q_minus, grad_minus, input_precision=C.PRECISION)
    scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
    grad_values = tl.dot(tl.trans(scores).to(C.OPERAND), given, grad_values, input_precision=C.PRECISION)
    return (grad_plus, grad_minus, grad_values), absorb(halves, q_plus, q_minus, given, pulled, C)


@triton.jit(noinline=True)
def _key_walk_by_token(queries, keys, mask, into, maps, segments, last, initial, here, kv_head, kv_heads,
                       HAS_LAST: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """What `_key_walk` does, one token after another; only in log space."""
    q, grad, norms, pulls, q_head, grad_head, tokens, q_row, grad_row = queries
    k, v, k_row, v_row = keys
    grad_x, grad_v, dx_row, dv_row, share = into
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tl.arange(0, C.BV)
    halves = _sums_at_end(segments, last, here, kv_head, kv_heads, columns, value_columns, HAS_LAST, C)
    grad_map = no_gradient(C)
    for index in range(here[3] - here[2]):
        token = here[3] - 1 - index
        place = tl.cast(token, tl.int64)
        if C.CAUSAL:
            for group in range(C.GROUPS):
                head = kv_head * C.GROUPS + group
                norm, row = tl.load(norms + head * tokens + token), grad + head * grad_head + place * grad_row
                plus, minus = token_features(q + head * q_head + place * q_row, True, maps[0], head, dims, columns, C)
                halves = add_token(halves, plus - norm, minus - norm, load_vector(row, value_columns, C.VALUES, 0.0),
                                   -tl.load(pulls + head * tokens + token), C)  # fmt: skip
        keep = load_keep(mask, token, token + 1, C.HAS_MASK)
        values = tl.where(keep, load_vector(v + place * v_row, value_columns, C.VALUES, 0.0), 0.0)
        plus, minus = token_features(k + place * k_row, keep, maps[1], kv_head, dims, columns, C)
        plus, minus, grad_y = pulled_back(plus, minus, halves, values, 1.0, C)
        grad_values = tl.sum(plus[:, None] * halves[0][0], 0)
        if C.HALVES == 2:
            grad_values += tl.sum(minus[:, None] * halves[1][0], 0)
        tl.store(grad_v + place * dv_row + value_columns, grad_values.to(grad_v.dtype.element_ty),
                 mask=value_columns < C.VALUES)  # fmt: skip
        grad_map = token_through_map(k + place * k_row, keep, grad_y, maps[1], kv_head, grad_map,
                                     grad_x + place * dx_row, dims, columns, C)  # fmt: skip
    _write_initial(initial, here, kv_head, kv_heads, halves, columns, value_columns, C)
    add_to_map(share, grad_map, C)
