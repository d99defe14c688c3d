"""Triton kernels of linear attention over features too many for one tile, such as Taylor's 2,145: the forward pass.

Features are given, plain and not negative; kernels read them one tile of columns at a time. The steps are those of the
two-pass form in `triton.forward`: sums of blocks, a scan over them (`triton.states`), then one program for each chunk
of queries.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.features import load_keep, load_tile, load_values
from ..triton.forward import finish, locate_chunk
from ..triton.states import load_vector, locate_block, row_gradients, store_sums, tile_columns


@triton.jit
def sum_wide_keys(k, v, mask, blocks, sums, key_sums, k_batch, k_head, k_row, v_batch, v_head, v_row, mask_batch,
                  C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(k) vᵀ [block head FEATURES VALUES] and Σ φ(k) of a block.

    Grid: blocks, kv heads, tiles of features · tiles of values.
    """
    block, batch, start, end = locate_block(blocks, C.BLOCK)
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
    store_sums(sums, key_sums, key_sums, place, columns, value_columns, tile, (total, vector), None, C, False)


@triton.jit
def sum_wide_queries(q, grad, norms, pulls, blocks, sums, query_sums, q_batch, q_head, q_row, grad_batch, grad_head,
                     grad_row, tokens, groups, C: tl.constexpr):  # fmt: skip
    """The sums Σ φ(q) gᵀ and Σ φ(q) h of a block's queries, over the query heads of a kv head.

    g and h are those of `triton.states.row_gradients`.
    Grid: blocks, kv heads, tiles of features · tiles of values.
    """
    block, batch, start, end = locate_block(blocks, C.BLOCK)
    head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    columns, value_columns, tile = tile_columns(C)
    total = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    vector = tl.zeros(columns.shape, tl.float32)
    for group in range(groups):
        query_head = head * groups + group
        row_base = (batch * kv_heads * groups + query_head) * tokens
        for first in range(start, end, C.CHUNK):
            rows = first + tl.arange(0, C.CHUNK)
            features = load_tile(q + batch * q_batch + query_head * q_head, rows, columns, q_row, end, C.FEATURES,
                                 C.OPERAND)  # fmt: skip
            given = load_tile(grad + batch * grad_batch + query_head * grad_head, rows, value_columns, grad_row, end,
                              C.VALUES, tl.float32)  # fmt: skip
            _, numerator, denominator = row_gradients(norms + row_base, pulls + row_base, given, rows, end, False)
            total += tl.dot(tl.trans(features), numerator.to(C.OPERAND), input_precision=C.PRECISION)
            vector += tl.sum(features.to(tl.float32) * denominator[:, None], 0)
    place = (block * kv_heads + head) * C.FEATURES
    store_sums(sums, query_sums, query_sums, place, columns, value_columns, tile, (total, vector), None, C, False)


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


@triton.jit
def attend_wide(q, k, v, mask, blocks, states, state_keys, output, norms, q_batch, q_head, q_row, k_batch, k_head,
                k_row, v_batch, v_head, v_row, mask_batch, o_batch, o_head, o_row, tokens, groups, eps,
                C: tl.constexpr):  # fmt: skip
    """Outputs, and each row's norm: its denominator, or 1 without NORMALIZE.

    Grid: blocks · chunks in a block, query heads, tiles of values.
    """
    batch, start, first, end, state = locate_chunk(blocks, C)
    if first >= end:
        return
    head, tile, heads = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.num_programs(1)
    kv_head, kv_heads = head // groups, heads // groups
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
