"""Triton kernels for the gradients of linear attention over features too many for one tile; see `wide.kernels`.

The formulas are those of `fused.backward_kernels`. Scores do not enter the gradient of features, so each tile of
features is computed alone; the gradient of values sums over all tiles.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton.features import load_keep, load_tile, load_values, load_vector, store_tile
from ..triton.states import load_row_gradients
from .kernels import locate_chunk, wide_scores


@triton.jit(do_not_specialize=["tokens", "segments", "sequences", "mask_batch"])
def wide_query_gradients(k, v, grad, mask, norms, pulls, ends, states, state_keys, grad_y, k_batch, k_head, k_row,
                         v_batch, v_head, v_row, grad_batch, grad_head, grad_row, mask_batch, tokens, segments,
                         sequences, C: tl.constexpr):  # fmt: skip
    """The gradient of φ(q) [batch head tokens FEATURES].

    Grid: blocks · chunks, query heads, tiles of features.
    """
    batch, start, first, end, state = locate_chunk(ends, tokens, segments, sequences, C)
    if first >= end:
        return
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    kv_head, kv_heads = head // C.GROUPS, heads // C.GROUPS
    rows, value_columns = first + tl.arange(0, C.CHUNK), tl.arange(0, C.BV)
    columns = tl.program_id(2) * C.BF + tl.arange(0, C.BF)
    given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end, C.VALUES,
                      tl.float32)  # fmt: skip
    row_base = (batch * heads + head) * tokens
    _norm, numerator, denominator = load_row_gradients(norms + row_base, pulls + row_base, given, rows, end, C)
    place = (state * kv_heads + kv_head) * C.FEATURES
    before = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES, C.OPERAND)
    gradient = tl.dot(numerator.to(C.OPERAND), tl.trans(before), input_precision=C.PRECISION)
    gradient += denominator[:, None] * load_vector(state_keys + place, columns, C.FEATURES, 0.0)[None, :]
    if C.CAUSAL:
        for key_first in range(start, first + C.CHUNK, C.CHUNK):
            key_rows = key_first + tl.arange(0, C.CHUNK)
            keep = load_keep(mask + batch * mask_batch, key_rows, end, C.HAS_MASK)
            values = load_values(v + batch * v_batch + kv_head * v_head, key_rows, value_columns, v_row, end, keep,
                                 C.VALUES, C.OPERAND)  # fmt: skip
            keys = load_values(k + batch * k_batch + kv_head * k_head, key_rows, columns, k_row, end, keep, C.FEATURES,
                               C.OPERAND)  # fmt: skip
            slopes = tl.dot(numerator.to(C.OPERAND), tl.trans(values), input_precision=C.PRECISION)
            visible = (rows[:, None] >= key_rows[None, :]) & keep[None, :]
            slopes = tl.where(visible, slopes + denominator[:, None], 0.0)
            gradient += tl.dot(slopes.to(C.OPERAND), keys, input_precision=C.PRECISION)
    store_tile(grad_y + row_base * C.FEATURES, gradient, rows, columns, C.FEATURES, end, C.FEATURES)


@triton.jit(do_not_specialize=["tokens", "segments", "sequences", "mask_batch"])
def wide_key_gradients(q, v, grad, mask, norms, pulls, ends, states, state_queries, grad_y, q_batch, q_head, q_row,
                       v_batch, v_head, v_row, grad_batch, grad_head, grad_row, mask_batch, tokens, segments, sequences,
                       C: tl.constexpr):  # fmt: skip
    """The gradient of φ(k) [batch kv_head tokens FEATURES].

    Grid: blocks · chunks, kv heads, tiles of features.
    """
    batch, _start, first, end, state = locate_chunk(ends, tokens, segments, sequences, C)
    if first >= end:
        return
    kv_head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    key_rows, value_columns = first + tl.arange(0, C.CHUNK), tl.arange(0, C.BV)
    columns = tl.program_id(2) * C.BF + tl.arange(0, C.BF)
    keep = load_keep(mask + batch * mask_batch, key_rows, end, C.HAS_MASK)
    values = load_values(v + batch * v_batch + kv_head * v_head, key_rows, value_columns, v_row, end, keep, C.VALUES,
                         C.OPERAND)  # fmt: skip
    place = (state * kv_heads + kv_head) * C.FEATURES
    after = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES, C.OPERAND)
    gradient = tl.dot(values, tl.trans(after), input_precision=C.PRECISION)
    gradient += load_vector(state_queries + place, columns, C.FEATURES, 0.0)[None, :]
    if C.CAUSAL:
        for group in range(C.GROUPS):
            head = kv_head * C.GROUPS + group
            row_base = (batch * kv_heads * C.GROUPS + head) * tokens
            for row_first in range(first, end, C.CHUNK):
                rows = row_first + tl.arange(0, C.CHUNK)
                given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end,
                                  C.VALUES, tl.float32)  # fmt: skip
                _norm, numerator, denominator = load_row_gradients(norms + row_base, pulls + row_base, given, rows, end,
                                                                   C)  # fmt: skip
                queries = load_tile(q + batch * q_batch + head * q_head, rows, columns, q_row, end, C.FEATURES,
                                    C.OPERAND)  # fmt: skip
                slopes = tl.dot(numerator.to(C.OPERAND), tl.trans(values), input_precision=C.PRECISION)
                visible = (rows[:, None] >= key_rows[None, :]) & (rows < end)[:, None]
                slopes = tl.where(visible, slopes + denominator[:, None], 0.0)
                gradient += tl.dot(tl.trans(slopes).to(C.OPERAND), queries, input_precision=C.PRECISION)
    gradient = tl.where(keep[:, None], gradient, 0.0)
    store_tile(grad_y + (batch * kv_heads + kv_head) * tokens * C.FEATURES, gradient, key_rows, columns, C.FEATURES,
               end, C.FEATURES)  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "segments", "sequences", "mask_batch"])
def wide_value_gradients(q, k, grad, mask, norms, pulls, ends, states, grad_v, q_batch, q_head, q_row, k_batch,
                         k_head, k_row, grad_batch, grad_head, grad_row, mask_batch, dv_batch, dv_head, dv_row, tokens,
                         segments, sequences, C: tl.constexpr):  # fmt: skip
    """The gradient of v. Grid: blocks · chunks, kv heads, tiles of values."""
    batch, _start, first, end, state = locate_chunk(ends, tokens, segments, sequences, C)
    if first >= end:
        return
    kv_head, kv_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    key_rows = first + tl.arange(0, C.CHUNK)
    value_columns = tl.program_id(2) * C.BV + tl.arange(0, C.BV)
    keep = load_keep(mask + batch * mask_batch, key_rows, end, C.HAS_MASK)
    k += batch * k_batch + kv_head * k_head
    place = (state * kv_heads + kv_head) * C.FEATURES
    gradient = tl.zeros((key_rows.shape[0], value_columns.shape[0]), tl.float32)
    for column in range(0, C.FEATURES, C.BF):
        columns = column + tl.arange(0, C.BF)
        keys = load_tile(k, key_rows, columns, k_row, end, C.FEATURES, C.OPERAND)
        after = load_tile(states + place * C.VALUES, columns, value_columns, C.VALUES, C.FEATURES, C.VALUES, C.OPERAND)
        gradient += tl.dot(keys, after, input_precision=C.PRECISION)
    if C.CAUSAL:
        for group in range(C.GROUPS):
            head = kv_head * C.GROUPS + group
            row_base = (batch * kv_heads * C.GROUPS + head) * tokens
            for row_first in range(first, end, C.CHUNK):
                rows = row_first + tl.arange(0, C.CHUNK)
                given = load_tile(grad + batch * grad_batch + head * grad_head, rows, value_columns, grad_row, end,
                                  C.VALUES, tl.float32)  # fmt: skip
                _norm, numerator, _pull = load_row_gradients(norms + row_base, pulls + row_base, given, rows, end, C)
                scores = wide_scores(q + batch * q_batch + head * q_head, k, rows, key_rows, q_row, k_row, end, C)
                scores = tl.where(rows[:, None] >= key_rows[None, :], scores, 0.0)
                gradient += tl.dot(tl.trans(scores).to(C.OPERAND), numerator.to(C.OPERAND), input_precision=C.PRECISION)
    gradient = tl.where(keep[:, None], gradient, 0.0)
    store_tile(grad_v + batch * dv_batch + kv_head * dv_head, gradient, key_rows, value_columns, dv_row, end, C.VALUES)
