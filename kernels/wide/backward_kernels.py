"""Triton kernels of linear attention over features too many for one tile: gradients; see `wide.kernels`.

The formulas are those of `fused.backward_kernels`. A tile's gradient of features needs no other tile, as scores do not
enter it; that of values sums over all tiles.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from ..triton.features import load_keep, load_tile, load_values, store_tile
from ..triton.forward import locate_chunk
from ..triton.states import load_vector, row_gradients
from .kernels import wide_scores


@triton.jit
def state_gradient(numerator, denominator, states, keys, place, columns, value_columns, WIDTH: tl.constexpr,
                    VALUES: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The gradient [rows columns] of features that were multiplied with one half of a state."""
    state = load_tile(states + place * VALUES, columns, value_columns, VALUES, WIDTH, VALUES, OPERAND)
    sums = load_vector(keys + place, columns, WIDTH, 0.0)
    grad = tl.dot(numerator.to(OPERAND), tl.trans(state), input_precision=PRECISION)
    return grad + denominator[:, None] * sums[None, :]


@triton.jit
def wide_query_gradients(k, v, grad, mask, norms, pulls, blocks, states, state_keys, grad_y, k_batch, k_head,
                         k_row, v_batch, v_head, v_row, grad_batch, grad_head, grad_row, mask_batch,
                         tokens, groups, FEATURES: tl.constexpr, VALUES: tl.constexpr, HAS_MASK: tl.constexpr,
                         CAUSAL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, BF: tl.constexpr,
                         BV: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The gradient of φ(q) [batch head tokens FEATURES].

    Grid: blocks · chunks, query heads, tiles of features.
    """
    batch, start, first, end, state = locate_chunk(blocks, CAUSAL, BLOCK, CHUNK)
    if first >= end:
        return
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    kv_head, kv_heads = head // groups, heads // groups
    rows, value_columns = first + tl.arange(0, CHUNK), tl.arange(0, BV)
    columns = tl.program_id(2) * BF + tl.arange(0, BF)
    given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end, VALUES,
                      tl.float32)  # fmt: skip
    row_base = (batch * heads + head) * tokens
    _, numerator, denominator = row_gradients(norms + row_base, pulls + row_base, given, rows, end, False)
    gradient = state_gradient(numerator, denominator, states, state_keys, (state * kv_heads + kv_head) * FEATURES,
                              columns, value_columns, FEATURES, VALUES, OPERAND, PRECISION)  # fmt: skip
    if CAUSAL:
        for key_first in range(start, first + CHUNK, CHUNK):
            key_rows = key_first + tl.arange(0, CHUNK)
            keep = load_keep(mask + batch * mask_batch, key_rows, end, HAS_MASK)
            values = load_values(v + batch * v_batch + kv_head * v_head, key_rows, value_columns, v_row, end, keep,
                                 VALUES, OPERAND)  # fmt: skip
            keys = load_values(k + batch * k_batch + kv_head * k_head, key_rows, columns, k_row, end, keep, FEATURES,
                               OPERAND)  # fmt: skip
            slopes = tl.dot(numerator.to(OPERAND), tl.trans(values), input_precision=PRECISION) + denominator[:, None]
            slopes = tl.where((rows[:, None] >= key_rows[None, :]) & keep[None, :], slopes, 0.0)
            gradient += tl.dot(slopes.to(OPERAND), keys, input_precision=PRECISION)
    store_tile(grad_y + row_base * FEATURES, gradient, rows, columns, FEATURES, end, FEATURES)


@triton.jit
def wide_key_gradients(q, v, grad, mask, norms, pulls, blocks, states, state_queries, grad_y, q_batch, q_head,
                       q_row, v_batch, v_head, v_row, grad_batch, grad_head, grad_row,
                       mask_batch, tokens, groups, FEATURES: tl.constexpr, VALUES: tl.constexpr,
                       HAS_MASK: tl.constexpr, CAUSAL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
                       BF: tl.constexpr, BV: tl.constexpr, OPERAND: tl.constexpr,
                       PRECISION: tl.constexpr):  # fmt: skip
    """The gradient of φ(k) [batch kv_head tokens FEATURES].

    Grid: blocks · chunks, kv heads, tiles of features.
    """
    batch, start, first, end, state = locate_chunk(blocks, CAUSAL, BLOCK, CHUNK)
    if first >= end:
        return
    kv_head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    key_rows, value_columns = first + tl.arange(0, CHUNK), tl.arange(0, BV)
    columns = tl.program_id(2) * BF + tl.arange(0, BF)
    keep = load_keep(mask + batch * mask_batch, key_rows, end, HAS_MASK)
    values = load_values(v + batch * v_batch + kv_head * v_head, key_rows, value_columns, v_row, end, keep, VALUES,
                         OPERAND)  # fmt: skip
    place = (state * kv_heads + kv_head) * FEATURES
    after = load_tile(states + place * VALUES, columns, value_columns, VALUES, FEATURES, VALUES, OPERAND)
    gradient = tl.dot(values, tl.trans(after), input_precision=PRECISION)
    gradient += load_vector(state_queries + place, columns, FEATURES, 0.0)[None, :]
    if CAUSAL:
        for group in range(groups):
            head = kv_head * groups + group
            row_base = (batch * kv_heads * groups + head) * tokens
            for row_first in range(first, tl.minimum(start + BLOCK, end), CHUNK):
                rows = row_first + tl.arange(0, CHUNK)
                given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end,
                                  VALUES, tl.float32)  # fmt: skip
                _, numerator, denominator = row_gradients(norms + row_base, pulls + row_base, given, rows, end, False)
                queries = load_tile(q + batch * q_batch + head * q_head, rows, columns, q_row, end, FEATURES, OPERAND)
                slopes = tl.dot(numerator.to(OPERAND), tl.trans(values), input_precision=PRECISION)
                visible = (rows[:, None] >= key_rows[None, :]) & (rows < end)[:, None]
                slopes = tl.where(visible, slopes + denominator[:, None], 0.0)
                gradient += tl.dot(tl.trans(slopes).to(OPERAND), queries, input_precision=PRECISION)
    gradient = tl.where(keep[:, None], gradient, 0.0)
    store_tile(grad_y + (batch * kv_heads + kv_head) * tokens * FEATURES, gradient, key_rows, columns, FEATURES, end,
               FEATURES)  # fmt: skip


@triton.jit
def wide_value_gradients(q, k, grad, mask, norms, pulls, blocks, states, grad_v, q_batch, q_head, q_row, k_batch,
                         k_head, k_row, grad_batch, grad_head, grad_row, mask_batch, dv_batch,
                         dv_head, dv_row, tokens, groups, FEATURES: tl.constexpr, VALUES: tl.constexpr,
                         HAS_MASK: tl.constexpr, CAUSAL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
                         BF: tl.constexpr, BV: tl.constexpr, OPERAND: tl.constexpr,
                         PRECISION: tl.constexpr):  # fmt: skip
    """The gradient of v. Grid: blocks · chunks, kv heads, tiles of values."""
    batch, start, first, end, state = locate_chunk(blocks, CAUSAL, BLOCK, CHUNK)
    if first >= end:
        return
    kv_head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    key_rows = first + tl.arange(0, CHUNK)
    value_columns = tl.program_id(2) * BV + tl.arange(0, BV)
    keep = load_keep(mask + batch * mask_batch, key_rows, end, HAS_MASK)
    k += batch * k_batch + kv_head * k_head
    place = (state * kv_heads + kv_head) * FEATURES
    gradient = tl.zeros((CHUNK, BV), tl.float32)
    for column in range(0, FEATURES, BF):
        columns = column + tl.arange(0, BF)
        keys = load_tile(k, key_rows, columns, k_row, end, FEATURES, OPERAND)
        after = load_tile(states + place * VALUES, columns, value_columns, VALUES, FEATURES, VALUES, OPERAND)
        gradient += tl.dot(keys, after, input_precision=PRECISION)
    if CAUSAL:
        for group in range(groups):
            head = kv_head * groups + group
            row_base = (batch * kv_heads * groups + head) * tokens
            for row_first in range(first, tl.minimum(start + BLOCK, end), CHUNK):
                rows = row_first + tl.arange(0, CHUNK)
                given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end,
                                  VALUES, tl.float32)  # fmt: skip
                _, numerator, _ = row_gradients(norms + row_base, pulls + row_base, given, rows, end, False)
                scores = wide_scores(q + batch * q_batch + head * q_head, k, rows, key_rows, q_row, k_row, end,
                                     FEATURES, BF, OPERAND, PRECISION)  # fmt: skip
                scores = tl.where(rows[:, None] >= key_rows[None, :], scores, 0.0)
                gradient += tl.dot(tl.trans(scores).to(OPERAND), numerator.to(OPERAND), input_precision=PRECISION)
    gradient = tl.where(keep[:, None], gradient, 0.0)
    store_tile(grad_v + batch * dv_batch + kv_head * dv_head, gradient, key_rows, value_columns, dv_row, end, VALUES)
