"""Triton kernels for the sums that linear attention carries from one block of tokens to the next.

The sums of each block alone, over keys or over query gradients, are computed independently. A scan then turns them into
the sums over all keys before, or all queries after, each block. In log space sums have a shift per feature, the largest
log feature of their keys, like the log_scale of `state.LinearState`; in kernels it is called peak.

`blocks` and `sequences` are the tables of `block_tables.BlockTable`.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .features import EMPTY_LOG, load_keep, load_map, load_tile, load_values, map_features, store_tile


@triton.jit
def shifted(logs, shift, LOG: tl.constexpr):
    """Features from a result of `map_features`: unchanged, or with LOG exp(logs + shift), which is 0 at `EMPTY_LOG`."""
    if LOG:
        logs = tl.where(logs > EMPTY_LOG / 2, tl.exp(tl.minimum(logs + shift, 80.0)), 0.0)
    return logs


@triton.jit
def shifted_halves(x, matrix, shift, plus_peak, minus_peak, keep, columns, C: tl.constexpr):
    """Both halves [columns keys] of keys' features, with LOG after the shift; zero where a token is padding."""
    plus, minus = map_features(x, matrix, shift, columns, C)
    return (tl.where(keep[None, :], shifted(plus, -plus_peak[:, None], C.LOG), 0.0),
            tl.where(keep[None, :], shifted(minus, -minus_peak[:, None], C.LOG), 0.0))  # fmt: skip


@triton.jit
def load_vector(base, columns, WIDTH: tl.constexpr, other):
    """A vector's entries at `columns`, in float32; `other` past WIDTH."""
    return tl.load(base + columns, mask=columns < WIDTH, other=other).to(tl.float32)


@triton.jit
def _add_keys(features, peak, total, key_total, values, keep, C: tl.constexpr):
    """Adds one half of the keys' features [columns rows] to its sums, which grow with its peak."""
    if C.LOG:
        features = tl.where(keep[None, :], features, EMPTY_LOG)
        grown = tl.maximum(peak, tl.max(features, 1))
        total *= tl.exp(peak - grown)[:, None]
        key_total *= tl.exp(peak - grown)
        peak = grown
        features = shifted(features, -grown[:, None], C.LOG)
    features = tl.where(keep[None, :], features, 0.0)
    total += tl.dot(features.to(C.OPERAND), values, input_precision=C.PRECISION)
    return peak, total, key_total + tl.sum(features, 1)


@triton.jit
def sum_keys(k, v, k_weight, k_bias, mask, blocks, sums, key_sums, peaks, k_batch, k_head, k_row, v_batch, v_head,
             v_row, mask_batch, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(k) vᵀ [block head halves·WIDTH VALUES] and Σ φ(k) of a block, and with LOG their shift.

    Grid: blocks, kv heads, tiles of values.
    """
    block, batch, start, end = locate_block(blocks, C.BLOCK)
    head, tile = tl.program_id(1).to(tl.int64), tl.program_id(2)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    matrix, shift = load_map(k_weight, k_bias, head, dims, columns, C)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    plus_sum = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    plus_keys, plus_peak = tl.zeros(columns.shape, tl.float32), tl.full(columns.shape, EMPTY_LOG, tl.float32)
    minus_sum, minus_keys, minus_peak = plus_sum, plus_keys, plus_peak
    for first in range(start, end, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask + batch * mask_batch, rows, end, C.HAS_MASK)
        x = load_values(k, rows, dims, k_row, end, keep, C.DIM, C.OPERAND, C.HAS_MASK)
        values = load_values(v, rows, value_columns, v_row, end, keep, C.VALUES, C.OPERAND, C.HAS_MASK)
        plus, minus = map_features(x, matrix, shift, columns, C)
        plus_peak, plus_sum, plus_keys = _add_keys(plus, plus_peak, plus_sum, plus_keys, values, keep, C)
        if C.HALVES == 2:
            minus_peak, minus_sum, minus_keys = _add_keys(minus, minus_peak, minus_sum, minus_keys, values, keep, C)
    place = (block * tl.num_programs(1) + head) * (C.HALVES * C.WIDTH)
    store_sums(sums, key_sums, peaks, place, columns, value_columns, tile, (plus_sum, plus_keys, plus_peak),
               (minus_sum, minus_keys, minus_peak), C, C.LOG)  # fmt: skip


@triton.jit
def store_sums(sums, vectors, peaks, place, columns, value_columns, tile, plus, minus, C: tl.constexpr,
               LOG: tl.constexpr):  # fmt: skip
    """Stores the sum, vector and peak of each half; only the first tile of values stores vectors and peaks."""
    _store_half(sums, vectors, peaks, place, columns, value_columns, tile, plus, C, LOG)
    if C.HALVES == 2:
        _store_half(sums, vectors, peaks, place + C.WIDTH, columns, value_columns, tile, minus, C, LOG)


@triton.jit
def _store_half(sums, vectors, peaks, place, columns, value_columns, tile, half, C: tl.constexpr, LOG: tl.constexpr):
    store_tile(sums + place * C.VALUES, half[0], columns, value_columns, C.VALUES, C.WIDTH, C.VALUES)
    if tile == 0:
        tl.store(vectors + place + columns, half[1], mask=columns < C.WIDTH)
        if LOG:
            tl.store(peaks + place + columns, half[2], mask=columns < C.WIDTH)


@triton.jit
def load_sums(sums, vectors, peaks, place, columns, value_columns, C: tl.constexpr, HAS_INITIAL: tl.constexpr):
    """The sum, vector and peak of each half of the initial state; those of no keys without HAS_INITIAL."""
    plus = _load_half(sums, vectors, peaks, place, columns, value_columns, C, HAS_INITIAL)
    minus = plus
    if C.HALVES == 2:
        minus = _load_half(sums, vectors, peaks, place + C.WIDTH, columns, value_columns, C, HAS_INITIAL)
    return plus[0], plus[1], plus[2], minus[0], minus[1], minus[2]


@triton.jit
def _load_half(sums, vectors, peaks, place, columns, value_columns, C: tl.constexpr, HAS_INITIAL: tl.constexpr):
    total = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    vector, peak = tl.zeros(columns.shape, tl.float32), tl.full(columns.shape, EMPTY_LOG, tl.float32)
    if HAS_INITIAL:
        total = load_tile(sums + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, tl.float32)
        vector = load_vector(vectors + place, columns, C.WIDTH, 0.0)
        if C.LOG:
            peak = load_vector(peaks + place, columns, C.WIDTH, EMPTY_LOG)
    return total, vector, peak


@triton.jit
def locate_block(blocks, BLOCK: tl.constexpr):
    """The block of a program, by the grid's first axis: index, batch entry, first token and end."""
    block = tl.program_id(0).to(tl.int64)
    batch, start = tl.load(blocks + block * 4).to(tl.int64), tl.load(blocks + block * 4 + 1)
    return block, batch, start, tl.minimum(start + BLOCK, tl.load(blocks + block * 4 + 2))


@triton.jit
def tile_columns(C: tl.constexpr):
    """The columns of features and of values of a program, by the grid's third axis, and the index of its value tile."""
    value_tiles = (C.VALUES + C.BV - 1) // C.BV
    tile = tl.program_id(2) % value_tiles
    return tl.program_id(2) // value_tiles * C.BF + tl.arange(0, C.BF), tile * C.BV + tl.arange(0, C.BV), tile


@triton.jit
def _scanned(C: tl.constexpr):
    """The columns of features of a program of a scan, their offsets in a state, and three masks.

    The masks are for loads of vectors, for sums, and for stores of vectors, which only the first tile of values makes.
    """
    columns, value_columns, tile = tile_columns(C)
    real = columns < C.FEATURES
    within = columns[:, None] * C.VALUES + value_columns[None, :]
    once = columns < tl.where(tile == 0, C.FEATURES, 0)
    return columns, within, real, real[:, None] & (value_columns[None, :] < C.VALUES), once


@triton.jit
def scan_keys(sums, key_sums, peaks, initial, initial_keys, initial_peaks, sequences, states, state_keys, peaks_before,
              peaks_through, final, final_keys, final_peaks, C: tl.constexpr, HAS_INITIAL: tl.constexpr):  # fmt: skip
    """The sums over all keys before each block, and over all keys of each sequence.

    Without CAUSAL only the sums of the sequences are stored. Grid: sequences, kv heads, tiles of features and values.
    """
    sequence, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    columns, within, real, inside, once = _scanned(C)
    total, keys = tl.zeros(within.shape, tl.float32), tl.zeros(columns.shape, tl.float32)
    peak = tl.full(columns.shape, EMPTY_LOG, tl.float32)
    place = (sequence * heads + head) * C.FEATURES
    if HAS_INITIAL:
        total = tl.load(initial + place * C.VALUES + within, mask=inside, other=0.0)
        keys = tl.load(initial_keys + place + columns, mask=real, other=0.0)
        if C.LOG:
            peak = tl.load(initial_peaks + place + columns, mask=real, other=EMPTY_LOG)
    first = tl.load(sequences + sequence * 2).to(tl.int64)
    for step in range(tl.load(sequences + sequence * 2 + 1)):
        here = ((first + step) * heads + head) * C.FEATURES
        if C.CAUSAL:
            tl.store(states + here * C.VALUES + within, total.to(states.dtype.element_ty), mask=inside)
            tl.store(state_keys + here + columns, keys, mask=once)
        own = tl.load(sums + here * C.VALUES + within, mask=inside, other=0.0).to(tl.float32)
        own_keys = tl.load(key_sums + here + columns, mask=real, other=0.0)
        if C.LOG:
            own_peak = tl.load(peaks + here + columns, mask=real, other=EMPTY_LOG)
            grown = tl.maximum(peak, own_peak)
            if C.CAUSAL:
                tl.store(peaks_before + here + columns, peak, mask=once)
                tl.store(peaks_through + here + columns, grown, mask=once)
            kept, added = tl.exp(peak - grown), tl.exp(own_peak - grown)
            total, keys = total * kept[:, None], keys * kept
            own, own_keys = own * added[:, None], own_keys * added
            peak = grown
        total += own
        keys += own_keys
    tl.store(final + place * C.VALUES + within, total, mask=inside)
    tl.store(final_keys + place + columns, keys, mask=once)
    if C.LOG:
        tl.store(final_peaks + place + columns, peak, mask=once)


@triton.jit
def sum_queries(q, grad, q_weight, q_bias, norms, pulls, peaks, blocks, sums, query_sums, q_batch, q_head, q_row,
                grad_batch, grad_head, grad_row, tokens, groups, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(q) gᵀ and Σ φ(q) h of a block's queries, over the query heads of a kv head.

    g and h are the gradients of a row's numerator and denominator (`row_gradients`). With LOG, φ(q) here means
    exp(log φ(q) + peak - norm), at most 1, with the peaks before the block (CAUSAL) or of the whole sequence.
    Grid: blocks, kv heads, tiles of values.
    """
    block, batch, start, end = locate_block(blocks, C.BLOCK)
    head, tile, kv_heads = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(1)
    dims, columns, value_columns = tl.arange(0, C.BD), tl.arange(0, C.BW), tile * C.BV + tl.arange(0, C.BV)
    state = block
    if not C.CAUSAL:
        state = tl.load(blocks + block * 4 + 3).to(tl.int64)
    plus_peak, minus_peak = load_peaks(peaks, (state * kv_heads + head) * C.HALVES * C.WIDTH, columns, C)
    plus_sum = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    plus_rows = tl.zeros(columns.shape, tl.float32)
    minus_sum, minus_rows = plus_sum, plus_rows
    for group in range(groups):
        query_head = head * groups + group
        matrix, shift = load_map(q_weight, q_bias, query_head, dims, columns, C)
        row_base = (batch * kv_heads * groups + query_head) * tokens
        for first in range(start, end, C.CHUNK):
            rows = first + tl.arange(0, C.CHUNK)
            x = load_tile(q + batch * q_batch + query_head * q_head, rows, dims, q_row, end, C.DIM, C.OPERAND)
            plus, minus = map_features(x, matrix, shift, columns, C)
            given = load_tile(grad + batch * grad_batch + query_head * grad_head, rows, value_columns, grad_row, end,
                              C.VALUES, tl.float32)  # fmt: skip
            norm, numerator, denominator = row_gradients(norms + row_base, pulls + row_base, given, rows, end, C.LOG)
            plus = tl.where((rows < end)[None, :], shifted(plus, plus_peak[:, None] - norm[None, :], C.LOG), 0.0)
            plus_sum += tl.dot(plus.to(C.OPERAND), numerator.to(C.OPERAND), input_precision=C.PRECISION)
            plus_rows += tl.sum(plus * denominator[None, :], 1)
            if C.HALVES == 2:
                minus = tl.where((rows < end)[None, :], shifted(minus, minus_peak[:, None] - norm[None, :], C.LOG), 0.0)
                minus_sum += tl.dot(minus.to(C.OPERAND), numerator.to(C.OPERAND), input_precision=C.PRECISION)
                minus_rows += tl.sum(minus * denominator[None, :], 1)
    place = (block * kv_heads + head) * (C.HALVES * C.WIDTH)
    store_sums(sums, query_sums, query_sums, place, columns, value_columns, tile, (plus_sum, plus_rows, plus_rows),
               (minus_sum, minus_rows, minus_rows), C, False)  # fmt: skip


@triton.jit
def load_peaks(peaks, place, columns, C: tl.constexpr):
    """The peaks [columns] of each half; without LOG, zeros that are not read."""
    plus = tl.zeros(columns.shape, tl.float32)
    minus = plus
    if C.LOG:
        plus = load_vector(peaks + place, columns, C.WIDTH, EMPTY_LOG)
        if C.HALVES == 2:
            minus = load_vector(peaks + place + C.WIDTH, columns, C.WIDTH, EMPTY_LOG)
    return plus, minus


@triton.jit
def row_gradients(norms, pulls, grad, rows, end, LOG: tl.constexpr):
    """A row's norm, and the gradients g [rows values] of its numerator and h [rows] of its denominator.

    With o = numerator / denominator, g = do / denominator and h = -(o·do) / denominator. With LOG the norm is the
    logarithm of the denominator; then g = do and h = -(o·do), and callers take the norm off the row's log features.
    """
    norm = tl.load(norms + rows, mask=rows < end, other=1.0)
    denominator = -tl.load(pulls + rows, mask=rows < end, other=0.0)
    if not LOG:
        grad /= norm[:, None]
        denominator /= norm
    return norm, grad, denominator


@triton.jit
def scan_queries(sums, query_sums, last, last_queries, peaks_before, peaks_through, sequences, states, state_queries,
                 first_state, first_queries, C: tl.constexpr, HAS_LAST: tl.constexpr):  # fmt: skip
    """The sums of `sum_queries` over all queries after each block, and over all queries of each sequence.

    With LOG and CAUSAL, the sums after a block have the peaks of the keys up to its end, and those of a sequence the
    peaks of the initial state. Without CAUSAL only the sums of the sequences are stored, with the peaks of all keys.
    Grid: sequences, kv heads, tiles of features and values.
    """
    sequence, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    columns, within, real, inside, once = _scanned(C)
    total, queries = tl.zeros(within.shape, tl.float32), tl.zeros(columns.shape, tl.float32)
    place = (sequence * heads + head) * C.FEATURES
    if HAS_LAST:
        total = tl.load(last + place * C.VALUES + within, mask=inside, other=0.0)
        queries = tl.load(last_queries + place + columns, mask=real, other=0.0)
    first, count = tl.load(sequences + sequence * 2).to(tl.int64), tl.load(sequences + sequence * 2 + 1)
    for step in range(count):
        here = ((first + count - 1 - step) * heads + head) * C.FEATURES
        if C.CAUSAL:
            tl.store(states + here * C.VALUES + within, total.to(states.dtype.element_ty), mask=inside)
            tl.store(state_queries + here + columns, queries, mask=once)
            if C.LOG:
                before = tl.load(peaks_before + here + columns, mask=real, other=EMPTY_LOG)
                kept = tl.exp(before - tl.load(peaks_through + here + columns, mask=real, other=EMPTY_LOG))
                total, queries = total * kept[:, None], queries * kept
        total += tl.load(sums + here * C.VALUES + within, mask=inside, other=0.0).to(tl.float32)
        queries += tl.load(query_sums + here + columns, mask=real, other=0.0)
    tl.store(first_state + place * C.VALUES + within, total, mask=inside)
    tl.store(first_queries + place + columns, queries, mask=once)
