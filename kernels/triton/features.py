"""Hedgehog's feature map inside Triton kernels: features of a tile of tokens, and their gradient back to y = Wx + b.

Tokens are rows. The half of y and the half of -y are separate tiles, so that no tile has to be joined or split. With
LOG the map gives logarithms, which callers exponentiate after a shift.

A matrix is a pointer and the stride from row to row, a map the pointers to its W and b.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

from typing import Any, NamedTuple

import triton
import triton.language as tl

EMPTY_LOG = tl.constexpr(-1e30)
"""`state.EMPTY_LOG` as a constant of kernels."""


@triton.jit
def filled(value, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TYPE: tl.constexpr):
    """A tile [ROWS COLUMNS] of one number."""
    return tl.full((ROWS, COLUMNS), value, TYPE)


@triton.jit
def vector_of(value, SIZE: tl.constexpr):
    """A vector [SIZE] of one number, in float32."""
    return tl.full((SIZE,), value, tl.float32)


class Columns(NamedTuple):
    """Indices of a program's columns: of q or k, of one half of φ, and of v."""

    x: Any
    phi: Any
    v: Any


@triton.jit
def columns_from(feature, value, C: tl.constexpr):
    """The columns of a tile whose first ones are these, of features and of values."""
    return Columns(feature + tl.arange(0, C.BD), feature + tl.arange(0, C.BW), value + tl.arange(0, C.BV))


@triton.jit
def dense(pointer, WIDTH: tl.constexpr):
    """The matrix of WIDTH columns at a pointer."""
    return pointer, WIDTH


@triton.jit
def head_of(tensor, batch, head):
    """The matrix of one head, of a tensor that `launch.by_head` gives."""
    pointer, batch_stride, head_stride, row_stride = tensor
    return pointer + batch * batch_stride + head * head_stride, row_stride


@triton.jit
def entry_of(tensor, batch):
    """One entry of the batch, of a tensor that `launch.by_head` gives, as a tensor with a batch of one."""
    pointer, batch_stride, head_stride, row_stride = tensor
    return pointer + batch * batch_stride, 0, head_stride, row_stride


@triton.jit
def row_of(matrix, row):
    """The pointer to a row of a matrix."""
    return matrix[0] + tl.cast(row, tl.int64) * matrix[1]


@triton.jit
def load_tile(matrix, rows, columns, end, WIDTH: tl.constexpr, OPERAND: tl.constexpr):
    """The tile [rows columns] of a matrix [end WIDTH], in the type OPERAND; zero outside the matrix."""
    inside = (rows[:, None] < end) & (columns[None, :] < WIDTH)
    offsets = rows[:, None].to(tl.int64) * matrix[1] + columns[None, :]
    return tl.load(matrix[0] + offsets, mask=inside, other=0.0).to(OPERAND)


@triton.jit
def store_tile(matrix, tile, rows, columns, end, WIDTH: tl.constexpr):
    """Stores a tile [rows columns] to a matrix [end WIDTH]; entries outside the matrix are left out."""
    inside = (rows[:, None] < end) & (columns[None, :] < WIDTH)
    offsets = rows[:, None].to(tl.int64) * matrix[1] + columns[None, :]
    tl.store(matrix[0] + offsets, tile.to(matrix[0].dtype.element_ty), mask=inside)


@triton.jit
def load_vector(base, columns, WIDTH: tl.constexpr, other):
    """A vector's entries at `columns`, in float32; `other` past WIDTH."""
    return tl.load(base + columns, mask=columns < WIDTH, other=other).to(tl.float32)


@triton.jit
def load_keep(mask, rows, end, HAS_MASK: tl.constexpr):
    """A mask [rows], true at tokens that exist and are not padding."""
    keep = rows < end
    if HAS_MASK:
        keep &= tl.load(mask + rows, mask=keep, other=0) != 0
    return keep


@triton.jit
def load_kept(matrix, rows, columns, end, keep, WIDTH: tl.constexpr, C: tl.constexpr):
    """A tile of keys or values as an operand, zero where a token is padding, whatever its memory holds."""
    tile = load_tile(matrix, rows, columns, end, WIDTH, C.OPERAND)
    if C.HAS_MASK:
        tile = tl.where(keep[:, None], tile, 0.0).to(C.OPERAND)
    return tile


@triton.jit
def keys_of(k, v, mask, batch, head, tokens, C: tl.constexpr):
    """The matrices of one head's keys and values, and the pointer to its padding mask, if there is one."""
    return head_of(k, batch, head), head_of(v, batch, head), mask + batch * tokens if C.HAS_MASK else k[0]


@triton.jit
def load_keys(keys, rows, stop, at, C: tl.constexpr):
    """A mask [rows], true at keys that are seen; the keys and their values. `keys` is what `keys_of` gives."""
    keep = load_keep(keys[2], rows, stop, C.HAS_MASK)
    x = load_kept(keys[0], rows, at.x, stop, keep, C.DIM, C)
    return keep, x, load_kept(keys[1], rows, at.v, stop, keep, C.VALUES, C)


@triton.jit
def load_map(pointers, head, at, C: tl.constexpr):
    """W [dims columns] and b [columns] of one head; for the identity, zeros that are not read."""
    shift = tl.zeros(at.phi.shape, tl.float32)
    matrix = tl.zeros((at.x.shape[0], at.phi.shape[0]), C.OPERAND)
    if C.MAP != "identity":
        weight = dense(pointers[0] + head * C.DIM * C.WIDTH, C.WIDTH)
        matrix = load_tile(weight, at.x, at.phi, C.DIM, C.WIDTH, C.OPERAND)
        if C.HAS_BIAS:
            shift = load_vector(pointers[1] + head * C.WIDTH, at.phi, C.WIDTH, 0.0)
    return matrix, shift


@triton.jit
def project(x, mapping, C: tl.constexpr):
    """y = Wx + b [rows columns] of tokens [rows dims], in float32; without a map the tokens themselves."""
    matrix, shift = mapping
    y = x.to(tl.float32)
    if C.MAP != "identity":
        y = tl.dot(x, matrix, input_precision=C.PRECISION)
        if C.HAS_BIAS:
            y += shift[None, :]
    return y


@triton.jit
def only_real(tile, columns, other, C: tl.constexpr):
    """The tile with `other` in the columns past WIDTH, of which there are none if WIDTH fills the tile."""
    if C.WIDTH < C.BW:
        tile = tl.where((columns < C.WIDTH)[None, :], tile, other)
    return tile


@triton.jit
def map_halves(y, keep, shift, columns, C: tl.constexpr):
    """Both halves [rows columns] of the features of y; zero where `keep` is false, of the identity only with LOG.

    With LOG `shift` is taken off the logarithms: a number for all, for each row [rows 1], or for each row and column.
    """
    plus = y
    minus = y
    if C.LOG:
        shift = tl.where(keep[:, None], shift * C.LOG2_E, 1e30)
        plus = only_real(tl.exp2(y * C.LOG2_E - shift), columns, 0.0, C)
        if C.HALVES == 2:
            minus = only_real(tl.exp2(y * -C.LOG2_E - shift), columns, 0.0, C)
    elif C.MAP != "identity":
        y *= 2 * C.LOG2_E if C.MAP == "softmax_joint" else C.LOG2_E
        top = tl.max(only_real(y, columns, -1e30, C), 1)
        bottom = -tl.min(only_real(y, columns, 1e30, C), 1)
        if C.MAP == "softmax_joint" and C.HALVES == 2:
            top = tl.maximum(top, bottom)
            bottom = top
        plus = only_real(tl.exp2(y - top[:, None]), columns, 0.0, C)
        minus = only_real(tl.exp2(-y - bottom[:, None]), columns, 0.0, C)
        factor = tl.where(keep, 1.0, 0.0)
        other = factor
        if C.MAP == "softmax":
            factor = factor / tl.sum(plus, 1)
            other = other / tl.sum(minus, 1)
        elif C.MAP == "softmax_joint":
            total = tl.sum(plus, 1)
            if C.HALVES == 2:
                total += tl.sum(minus, 1)
            factor = factor / total
            other = factor
        plus *= factor[:, None]
        minus *= other[:, None]
    return plus, minus


@triton.jit
def map_gradient(plus, minus, grad_plus, grad_minus, C: tl.constexpr):
    """The gradient dy [rows columns] from features φ and their gradients dφ; with LOG a shift must cancel in φ·dφ."""
    grad = grad_plus
    if C.MAP != "identity" or C.LOG:
        grad = plus * grad_plus
        other = minus * grad_minus
        if C.MAP == "softmax":
            grad -= plus * tl.sum(grad, 1)[:, None]
            other -= minus * tl.sum(other, 1)[:, None]
        elif C.MAP == "softmax_joint":
            total = tl.sum(grad, 1)
            if C.HALVES == 2:
                total += tl.sum(other, 1)
            grad = 2.0 * (grad - plus * total[:, None])
            other = 2.0 * (other - minus * total[:, None])
        elif C.MAP == "exp_max":
            grad -= _share_of_maximum(plus) * tl.sum(grad, 1)[:, None]
            other -= _share_of_maximum(minus) * tl.sum(other, 1)[:, None]
        if C.HALVES == 2:
            grad -= other
    return grad


@triton.jit
def _share_of_maximum(features):
    """The share of each feature in the gradient of its token's maximum; equal features share it equally.

    On a GPU the largest may be a rounding off 1: the compiler fuses the product and the difference in its exponent.
    """
    highest = (features == tl.max(features, 1)[:, None]).to(tl.float32)
    return highest / tl.sum(highest, 1)[:, None]


@triton.jit
def no_gradient(C: tl.constexpr):
    """Zeros as gradients of W and b, the latter in `UNIT` columns."""
    return filled(0.0, C.BD, C.BW, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32)


@triton.jit
def through_map(x, grad_y, mapping, grad_map, C: tl.constexpr):
    """The gradient of x [rows dims] from that of y = Wx + b, and those of W and b with these rows added."""
    grad_x, matrix = grad_y, mapping[0]
    grad_matrix, grad_shift = grad_map
    if C.MAP != "identity":
        given = grad_y.to(C.OPERAND)
        grad_x = tl.dot(given, tl.trans(matrix), input_precision=C.PRECISION)
        grad_matrix = tl.dot(tl.trans(x), given, grad_matrix, input_precision=C.PRECISION)
        if C.HAS_BIAS:
            ones = filled(1.0, C.CHUNK, C.UNIT, C.OPERAND)
            grad_shift = tl.dot(tl.trans(given), ones, grad_shift, input_precision=C.PRECISION)
    return grad_x, (grad_matrix, grad_shift)


@triton.jit
def add_to_map(into, slots_before, grad_map, C: tl.constexpr):
    """Stores a program's share of the gradients of W and b, added to what is there if there are slots before.

    Shares of W are [program head DIM WIDTH].
    """
    matrix, shift = grad_map
    if C.MAP != "identity":
        dims, columns = tl.arange(0, C.BD), tl.arange(0, C.BW)
        place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
        weight = dense(into[0] + place * C.DIM * C.WIDTH, C.WIDTH)
        if slots_before > 0:
            matrix += load_tile(weight, dims, columns, C.DIM, C.WIDTH, tl.float32)
        store_tile(weight, matrix, dims, columns, C.DIM, C.WIDTH)
        if C.HAS_BIAS:
            bias, total = into[1] + place * C.WIDTH, tl.sum(shift, 1) * (1.0 / C.UNIT)
            if slots_before > 0:
                total += load_vector(bias, columns, C.WIDTH, 0.0)
            tl.store(bias + columns, total, mask=columns < C.WIDTH)
