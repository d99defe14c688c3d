"""Triton kernels of the softmax window that shares its normaliser with linear attention over earlier keys.

With z_ij = scale q_i·k_j, c_i the largest z of a row's window (or 0) and M_i the logarithm of the shared normaliser, a
near key has the weight p_ij = exp(log γ + z_ij - c_i - M_i). Far keys enter as the linear part's own output and the
logarithm of its own normaliser; see `hybrid.attention`. M is kept, so the gradients compute p without the window's
sums:

    dz_ij = p_ij (do_i·v_j - do_i·o_i),   dlog γ = Σ_ij dz_ij,   dc_i = -Σ_j dz_ij, which goes to the largest z.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from ..triton import features

NOWHERE = tl.constexpr(2147483647)
"""The position of the largest key in a row that sees no key: the largest int32."""


@triton.jit
def _near(q, keys, rows, key_rows, end, scale, C: tl.constexpr):
    """The scores z [rows keys], `EMPTY_LOG` where a key is hidden, a mask of those that are seen, keys and values."""
    at = features.columns_from(0, 0, C)
    x = features.load_tile(q, rows, at.x, end, C.DIM, C.OPERAND)
    keep, y, values = features.load_keys(keys, key_rows, end, at, C)
    apart = rows[:, None] - key_rows[None, :]
    visible = (apart >= 0) & (apart < C.WINDOW) & keep[None, :] & (rows < end)[:, None]
    z = tl.dot(x, tl.trans(y), input_precision=C.PRECISION) * scale
    return tl.where(visible, z, features.EMPTY_LOG), visible, y, values


@triton.jit
def attend_to_window(q, k, v, mask, gate, far, far_logs, output, norms, shifts, peaks, tokens, scale, C: tl.constexpr):
    """Outputs of both parts together, M, c, and the first key that has the largest z, `NOWHERE` without SHIFT.

    A row without keys gives zero, and an M of 1e30. `far` and `far_logs` are the linear part's outputs and logarithms
    of the queries from token WINDOW on. Grid: tiles of rows, query heads, batch.
    """
    head, batch, heads = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), tl.num_programs(1)
    first, keys = tl.program_id(0) * C.CHUNK, features.keys_of(k, v, mask, batch, head // C.GROUPS, tokens, C)
    rows, columns = first + tl.arange(0, C.CHUNK), tl.arange(0, C.BV)
    top, total = features.vector_of(features.EMPTY_LOG, C.CHUNK), features.vector_of(0.0, C.CHUNK)
    place = tl.zeros_like(rows) + NOWHERE
    sums = features.filled(0.0, C.CHUNK, C.BV, tl.float32)
    begin = tl.maximum(0, first - C.WINDOW + 1) // C.CHUNK * C.CHUNK
    for key_first in range(begin, tl.minimum(first + C.CHUNK, tokens), C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        z, visible, _keys, values = _near(features.head_of(q, batch, head), keys, rows, key_rows, tokens, scale, C)
        highest = tl.max(z, 1)
        if C.SHIFT:
            here = tl.min(tl.where(visible & (z == highest[:, None]), key_rows[None, :], NOWHERE), 1)
            place = tl.where(highest > top, here, place)
        grown = tl.maximum(top, highest)
        weights = tl.where(visible, tl.exp2((z - grown[:, None]) * C.LOG2_E), 0.0)
        kept = tl.exp(top - grown)
        sums = sums * kept[:, None] + tl.dot(weights.to(C.OPERAND), values, input_precision=C.PRECISION)
        total = total * kept + tl.sum(weights, 1)
        top = grown
    sees = total > 0
    log_sum = tl.where(sees, top + tl.log(tl.where(sees, total, 1.0)), features.EMPTY_LOG)
    shift = features.vector_of(0.0, C.CHUNK)
    if C.SHIFT:
        shift = tl.where(sees, top, 0.0)
    log_sum += tl.load(gate + head).to(tl.float32) - shift
    delayed = rows - C.WINDOW
    reaches = (delayed >= 0) & (rows < tokens)
    row_base = batch * heads + head
    far_log = tl.load(far_logs + row_base * (tokens - C.WINDOW) + delayed, mask=reaches, other=features.EMPTY_LOG)
    # `finish` gives a row without far keys a norm of 1e30.
    far_log = tl.where(far_log > -features.EMPTY_LOG / 2, features.EMPTY_LOG, far_log)
    far, far_row = features.head_of(far, batch, head)
    far_values = tl.load(far + delayed[:, None].to(tl.int64) * far_row + columns[None, :],
                         mask=reaches[:, None] & (columns < C.VALUES)[None, :], other=0.0).to(tl.float32)  # fmt: skip
    norm = tl.maximum(log_sum, far_log)
    norm += tl.log(tl.exp(log_sum - norm) + tl.exp(far_log - norm))
    near_share, far_share = tl.where(sees, tl.exp(log_sum - norm), 0.0), tl.exp(far_log - norm)
    sums = sums * (near_share / tl.where(sees, total, 1.0))[:, None] + far_values * far_share[:, None]
    features.store_tile(features.head_of(output, batch, head), sums, rows, columns, tokens, C.VALUES)
    row_base *= tokens
    norm = tl.where(norm > features.EMPTY_LOG / 2, norm, -features.EMPTY_LOG)
    tl.store(norms + row_base + rows, norm, mask=rows < tokens)
    tl.store(shifts + row_base + rows, shift, mask=rows < tokens)
    tl.store(peaks + row_base + rows, place, mask=rows < tokens)


@triton.jit
def _queries_of(q, grad, gate, pulls, norms, shifts, batch, head, heads, tokens):
    """What `_pulled` reads of one head's queries."""
    place = (batch * heads + head) * tokens
    return (features.head_of(q, batch, head), features.head_of(grad, batch, head), pulls + place, norms + place,
            shifts + place, tl.load(gate + head).to(tl.float32))  # fmt: skip


@triton.jit
def _pulled(queries, keys, rows, key_rows, end, scale, C: tl.constexpr):
    """The weights p and gradients dz [rows keys], without the part of dz through c, do [rows values], and the keys."""
    q, grad, pulls, norms, shifts, log_gate = queries
    z, visible, y, values = _near(q, keys, rows, key_rows, end, scale, C)
    off = tl.load(shifts + rows, mask=rows < end, other=0.0) + tl.load(norms + rows, mask=rows < end, other=0.0)
    weights = tl.where(visible, tl.exp2(tl.minimum(z + (log_gate - off)[:, None], 80.0) * C.LOG2_E), 0.0)
    given = features.load_tile(grad, rows, tl.arange(0, C.BV), end, C.VALUES, C.OPERAND)
    slopes = tl.dot(given, tl.trans(values), input_precision=C.PRECISION)
    return weights, weights * (slopes - tl.load(pulls + rows, mask=rows < end, other=0.0)[:, None]), given, y


@triton.jit
def window_query_gradients(q, k, v, mask, grad, gate, pulls, norms, shifts, peaks, grad_q, row_sums, tokens, scale,
                           C: tl.constexpr):  # fmt: skip
    """The window's part of dq, and Σ_j dz_ij of each row. Grid: tiles of rows, query heads, batch."""
    head, batch, heads = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), tl.num_programs(1)
    first, keys = tl.program_id(0) * C.CHUNK, features.keys_of(k, v, mask, batch, head // C.GROUPS, tokens, C)
    rows, dims, row_base = first + tl.arange(0, C.CHUNK), tl.arange(0, C.BD), (batch * heads + head) * tokens
    queries = _queries_of(q, grad, gate, pulls, norms, shifts, batch, head, heads, tokens)
    gradient, summed = features.filled(0.0, C.CHUNK, C.BD, tl.float32), features.vector_of(0.0, C.CHUNK)
    begin = tl.maximum(0, first - C.WINDOW + 1) // C.CHUNK * C.CHUNK
    for key_first in range(begin, tl.minimum(first + C.CHUNK, tokens), C.CHUNK):
        key_rows = key_first + tl.arange(0, C.CHUNK)
        _weights, slopes, _given, y = _pulled(queries, keys, rows, key_rows, tokens, scale, C)
        gradient += tl.dot(slopes.to(C.OPERAND), y, input_precision=C.PRECISION)
        summed += tl.sum(slopes, 1)
    if C.SHIFT:
        place = tl.load(peaks + row_base + rows, mask=rows < tokens, other=NOWHERE)
        highest = tl.load(keys[0][0] + place[:, None].to(tl.int64) * keys[0][1] + dims[None, :],
                          mask=(place < NOWHERE)[:, None] & (dims < C.DIM)[None, :], other=0.0)  # fmt: skip
        gradient -= summed[:, None] * highest.to(tl.float32)
    features.store_tile(features.head_of(grad_q, batch, head), gradient * scale, rows, dims, tokens, C.DIM)
    tl.store(row_sums + row_base + rows, summed, mask=rows < tokens)


@triton.jit
def window_key_gradients(q, k, v, mask, grad, gate, pulls, norms, shifts, peaks, row_sums, grad_k, grad_v, tokens,
                         scale, C: tl.constexpr):  # fmt: skip
    """The window's part of dk and of dv. Grid: tiles of keys, kv heads, batch."""
    kv_head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    key_first, heads = tl.program_id(0) * C.CHUNK, tl.num_programs(1) * C.GROUPS
    key_rows, dims, columns = key_first + tl.arange(0, C.CHUNK), tl.arange(0, C.BD), tl.arange(0, C.BV)
    keys = features.keys_of(k, v, mask, batch, kv_head, tokens, C)
    of_keys = features.filled(0.0, C.CHUNK, C.BD, tl.float32)
    of_values = features.filled(0.0, C.CHUNK, C.BV, tl.float32)
    for group in range(C.GROUPS):
        head = kv_head * C.GROUPS + group
        row_base = (batch * heads + head) * tokens
        queries = _queries_of(q, grad, gate, pulls, norms, shifts, batch, head, heads, tokens)
        for first in range(key_first, tl.minimum(key_first + C.CHUNK + C.WINDOW - 1, tokens), C.CHUNK):
            rows = first + tl.arange(0, C.CHUNK)
            weights, slopes, given, _y = _pulled(queries, keys, rows, key_rows, tokens, scale, C)
            if C.SHIFT:
                place = tl.load(peaks + row_base + rows, mask=rows < tokens, other=NOWHERE)
                summed = tl.load(row_sums + row_base + rows, mask=rows < tokens, other=0.0)
                slopes -= tl.where(place[:, None] == key_rows[None, :], summed[:, None], 0.0)
            x = features.load_tile(queries[0], rows, dims, tokens, C.DIM, C.OPERAND)
            of_keys += tl.dot(tl.trans(slopes).to(C.OPERAND), x, input_precision=C.PRECISION)
            of_values += tl.dot(tl.trans(weights).to(C.OPERAND), given, input_precision=C.PRECISION)
    features.store_tile(features.head_of(grad_k, batch, kv_head), of_keys * scale, key_rows, dims, tokens, C.DIM)
    features.store_tile(features.head_of(grad_v, batch, kv_head), of_values, key_rows, columns, tokens, C.VALUES)
