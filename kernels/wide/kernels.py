"""Triton kernels of linear attention over features too many for one tile, such as Taylor's 2,145: the forward pass.

Features are given, plain and not negative; kernels read them one tile of columns at a time. Sums of segments of
`Constants.BLOCK` tokens are turned by a scan into the sums before (or, of queries, after) each segment; then each chunk
of queries has a program, which reads these sums and attends to the keys of its segment.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.features import filled, load_keep, load_tile, load_values, load_vector, row_of, store_tile
from ..triton.states import finish, load_row_gradients, locate


@triton.jit
def tile_columns(C: tl.constexpr):
    """The columns of features and of values of a program, by the grid's third axis, and the index of its value tile."""
    value_tiles = (C.VALUES + C.BV - 1) // C.BV
    tile = tl.program_id(2) % value_tiles
    return tl.program_id(2) // value_tiles * C.BF + tl.arange(0, C.BF), tile * C.BV + tl.arange(0, C.BV), tile


@triton.jit
def locate_chunk(ends, tokens, segments, sequences, C: tl.constexpr):
    """The chunk of a program: batch entry, start of its segment, its first token, the segment's end, and its state."""
    sequence, batch, start, stop, _end, _begin, slot, _last = locate(
        tl.program_id(0) // (C.BLOCK // C.CHUNK), ends, tokens, C.BLOCK, segments, sequences, C)  # fmt: skip
    state = tl.cast(slot, tl.int64) if C.CAUSAL else sequence
    first = start + tl.program_id(0) % (C.BLOCK // C.CHUNK) * C.CHUNK
    return tl.cast(batch, tl.int64), start, first, stop, state


@triton.jit
def _store(sums, vectors, place, total, vector, columns, value_columns, tile, C: tl.constexpr):
    store_tile(sums + place * C.VALUES, total, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES)
    if tile == 0:
        tl.store(vectors + place + columns, vector, mask=columns < C.FEATURES)


@triton.jit(do_not_specialize=["tokens", "segments", "sequences"])
def scan(sums, vectors, initial, initial_vectors, ends, states, state_vectors, final, final_vectors, tokens, segments,
         sequences, C: tl.constexpr, GIVEN: tl.constexpr, REVERSE: tl.constexpr):  # fmt: skip
    """The sums over all segments before each segment, or after it (REVERSE), and over all of each sequence.

    Without CAUSAL only the sums of the sequences are stored. Grid: sequences, kv heads, tiles of features and values.
    """
    sequence, head, heads = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    columns, value_columns, tile = tile_columns(C)
    total, vector = filled(0.0, C.BF, C.BV, tl.float32), row_of(0.0, C.BF)
    whole = (sequence.to(tl.int64) * heads + head) * C.FEATURES
    if GIVEN:
        total = load_tile(initial + whole * C.VALUES, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES,
                          tl.float32)  # fmt: skip
        vector = load_vector(initial_vectors + whole, columns, C.FEATURES, 0.0)
    first = sequence * segments
    if C.PACKED:
        first = tl.load(ends + sequence).to(tl.int32) // C.BLOCK + sequence
    place = locate(first, ends, tokens, C.BLOCK, segments, sequences, C)
    last = place[7]
    for step in range(last - first):
        slot = last - 1 - step if REVERSE else first + step
        here = (tl.cast(slot, tl.int64) * heads + head) * C.FEATURES
        if C.CAUSAL:
            _store(states, state_vectors, here, total, vector, columns, value_columns, tile, C)
        total += load_tile(sums + here * C.VALUES, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES, tl.float32)
        vector += load_vector(vectors + here, columns, C.FEATURES, 0.0)
    _store(final, final_vectors, whole, total, vector, columns, value_columns, tile, C)


@triton.jit(do_not_specialize=["tokens", "segments", "sequences", "mask_batch"])
def sum_wide_keys(k, v, mask, ends, sums, vectors, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch,
                  tokens, segments, sequences, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(k) vᵀ [block head FEATURES VALUES] and Σ φ(k) of a block.

    Grid: blocks, kv heads, tiles of features · tiles of values.
    """
    _sequence, batch, start, end, _last_end, _begin, block, _last = locate(
        tl.program_id(0), ends, tokens, C.BLOCK, segments, sequences, C)  # fmt: skip
    if start >= end:
        return
    batch, block = tl.cast(batch, tl.int64), tl.cast(block, tl.int64)
    head = tl.program_id(1).to(tl.int64)
    columns, value_columns, tile = tile_columns(C)
    k, v, mask = k + batch * k_batch + head * k_head, v + batch * v_batch + head * v_head, mask + batch * mask_batch
    total = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    vector = tl.zeros(columns.shape, tl.float32)
    for first in range(start, end, C.CHUNK):
        rows = first + tl.arange(0, C.CHUNK)
        keep = load_keep(mask, rows, end, C.HAS_MASK)
        features = load_values(k, rows, columns, k_row, end, keep, C.FEATURES, C.OPERAND)
        values = load_values(v, rows, value_columns, v_row, end, keep, C.VALUES, C.OPERAND)
        total += tl.dot(tl.trans(features), values, input_precision=C.PRECISION)
        vector += tl.sum(features.to(tl.float32), 0)
    place = (block * tl.num_programs(1) + head) * C.FEATURES
    _store(sums, vectors, place, total, vector, columns, value_columns, tile, C)


@triton.jit(do_not_specialize=["tokens", "segments", "sequences"])
def sum_wide_queries(q, grad, norms, pulls, ends, sums, vectors, q_batch, q_head, q_row, grad_batch, grad_head,
                     grad_row, tokens, segments, sequences, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(q) gᵀ and Σ φ(q) h of a block's queries, over the query heads of a kv head.

    g and h are those of `triton.states.row_gradients`.
    Grid: blocks, kv heads, tiles of features · tiles of values.
    """
    _sequence, batch, start, end, _last_end, _begin, block, _last = locate(
        tl.program_id(0), ends, tokens, C.BLOCK, segments, sequences, C)  # fmt: skip
    if start >= end:
        return
    batch, block = tl.cast(batch, tl.int64), tl.cast(block, tl.int64)
    head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    columns, value_columns, tile = tile_columns(C)
    total = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    vector = tl.zeros(columns.shape, tl.float32)
    for group in range(C.GROUPS):
        query_head = head * C.GROUPS + group
        row_base = (batch * kv_heads * C.GROUPS + query_head) * tokens
        for first in range(start, end, C.CHUNK):
            rows = first + tl.arange(0, C.CHUNK)
            features = load_tile(q + batch * q_batch + query_head * q_head, rows, columns, q_row, end, C.FEATURES,
                                 C.OPERAND)  # fmt: skip
            given = load_tile(grad + batch * grad_batch + query_head * grad_head, rows, value_columns, grad_row, end,
                              C.VALUES, tl.float32)  # fmt: skip
            _norm, numerator, denominator = load_row_gradients(norms + row_base, pulls + row_base, given, rows, end, C)
            total += tl.dot(tl.trans(features), numerator.to(C.OPERAND), input_precision=C.PRECISION)
            vector += tl.sum(features.to(tl.float32) * denominator[:, None], 0)
    place = (block * kv_heads + head) * C.FEATURES
    _store(sums, vectors, place, total, vector, columns, value_columns, tile, C)


@triton.jit
def wide_scores(q, k, rows, key_rows, q_row, k_row, end, C: tl.constexpr):
    """The scores φ(q)·φ(k) [rows keys]."""
    scores = tl.zeros((rows.shape[0], key_rows.shape[0]), tl.float32)
    for column in range(0, C.FEATURES, C.BF):
        columns = column + tl.arange(0, C.BF)
        queries = load_tile(q, rows, columns, q_row, end, C.FEATURES, C.OPERAND)
        keys = load_tile(k, key_rows, columns, k_row, end, C.FEATURES, C.OPERAND)
        scores += tl.dot(queries, tl.trans(keys), input_precision=C.PRECISION)
    return scores


@triton.jit(do_not_specialize=["tokens", "segments", "sequences", "mask_batch"])
def attend_wide(q, k, v, mask, ends, states, state_keys, output, norms, q_batch, q_head, q_row, k_batch, k_head,
                k_row, v_batch, v_head, v_row, mask_batch, o_batch, o_head, o_row, tokens, segments, sequences, eps,
                C: tl.constexpr):  # fmt: skip
    """Outputs, and each row's norm: its denominator, or 1 without NORMALIZE.

    Grid: blocks · chunks in a block, query heads, tiles of values.
    """
    batch, start, first, end, state = locate_chunk(ends, tokens, segments, sequences, C)
    if first >= end:
        return
    head, tile, heads = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(1)
    kv_head, kv_heads = head // C.GROUPS, heads // C.GROUPS
    rows, value_columns = first + tl.arange(0, C.CHUNK), tile * C.BV + tl.arange(0, C.BV)
    q, k = q + batch * q_batch + head * q_head, k + batch * k_batch + kv_head * k_head
    v, mask = v + batch * v_batch + kv_head * v_head, mask + batch * mask_batch
    place = (state * kv_heads + kv_head) * C.FEATURES
    numerator = tl.zeros((rows.shape[0], value_columns.shape[0]), tl.float32)
    denominator = tl.zeros(rows.shape, tl.float32)
    for column in range(0, C.FEATURES, C.BF):
        columns = column + tl.arange(0, C.BF)
        features = load_tile(q, rows, columns, q_row, end, C.FEATURES, tl.float32)
        before = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES, C.OPERAND)
        numerator += tl.dot(features.to(C.OPERAND), before, input_precision=C.PRECISION)
        denominator += tl.sum(features * load_vector(state_keys + place, columns, C.FEATURES, 0.0)[None, :], 1)
    if C.CAUSAL:
        for key_first in range(start, first + C.CHUNK, C.CHUNK):
            key_rows = key_first + tl.arange(0, C.CHUNK)
            keep = load_keep(mask, key_rows, end, C.HAS_MASK)
            scores = wide_scores(q, k, rows, key_rows, q_row, k_row, end, C)
            scores = tl.where((rows[:, None] >= key_rows[None, :]) & keep[None, :], scores, 0.0)
            values = load_values(v, key_rows, value_columns, v_row, end, keep, C.VALUES, C.OPERAND)
            numerator += tl.dot(scores.to(C.OPERAND), values, input_precision=C.PRECISION)
            denominator += tl.sum(scores, 1)
    finish(numerator, denominator, denominator, output + batch * o_batch + head * o_head,
           norms + (batch * heads + head) * tokens, rows, value_columns, o_row, end, eps, tile, C)  # fmt: skip
