"""Hedgehog's feature map inside Triton kernels: features of a tile of tokens, and their gradient back to y = Wx + b.

A map has one or two halves, of y and of -y, so that no tile is ever joined or cut. Log features stay logarithms here;
the caller takes a shift off them.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

IDENTITY = tl.constexpr(0)
EXP = tl.constexpr(1)
EXP_MAX = tl.constexpr(2)
SOFTMAX = tl.constexpr(3)
SOFTMAX_JOINT = tl.constexpr(4)

MAP_CODES = {"identity": 0, "exp": 1, "exp_max": 2, "softmax": 3, "softmax_joint": 4}
"""Codes of the variants of `HedgehogMap`; "identity" takes its input for features."""

EMPTY_LOG = tl.constexpr(-1e30)
"""`state.EMPTY_LOG`."""


@triton.jit
def load_tile(base, rows, columns, row_stride, end, WIDTH: tl.constexpr, OPERAND: tl.constexpr,
              EVICT: tl.constexpr = ""):  # fmt: skip
    """A matrix's [rows, columns] as an operand of `tl.dot`, zero outside of it."""
    inside = (rows[:, None] < end) & (columns[None, :] < WIDTH)
    offsets = rows[:, None].to(tl.int64) * row_stride + columns[None, :]
    return tl.load(base + offsets, mask=inside, other=0.0, eviction_policy=EVICT).to(OPERAND)


@triton.jit
def store_tile(base, tile, rows, columns, row_stride, end, WIDTH: tl.constexpr):
    """Stores [rows, columns], leaving out what is past the matrix."""
    inside = (rows[:, None] < end) & (columns[None, :] < WIDTH)
    offsets = rows[:, None].to(tl.int64) * row_stride + columns[None, :]
    tl.store(base + offsets, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_keep(mask, rows, end, HAS_MASK: tl.constexpr):
    """A mask, true at tokens that exist and are no padding."""
    keep = rows < end
    if HAS_MASK:
        keep &= tl.load(mask + rows, mask=keep, other=0) != 0
    return keep


@triton.jit
def load_values(v, rows, columns, row_stride, end, keep, VALUES: tl.constexpr, OPERAND: tl.constexpr,
                HAS_MASK: tl.constexpr = True):  # fmt: skip
    """The values [rows columns], zero where a token is padding, whatever its memory holds."""
    values = load_tile(v, rows, columns, row_stride, end, VALUES, OPERAND)
    if HAS_MASK:
        values = tl.where(keep[:, None], values, 0.0).to(OPERAND)
    return values


@triton.jit
def load_map(weight, bias, dims, columns, DIM: tl.constexpr, WIDTH: tl.constexpr, MAP: tl.constexpr,
             HAS_BIAS: tl.constexpr, OPERAND: tl.constexpr, EVICT: tl.constexpr = ""):  # fmt: skip
    """The W [dims, columns] and b [columns] of one head; for the identity, zeros that nothing reads."""
    shift = tl.zeros(columns.shape, tl.float32)
    matrix = tl.zeros((dims.shape[0], columns.shape[0]), OPERAND)
    if MAP != IDENTITY:
        matrix = load_tile(weight, dims, columns, WIDTH, DIM, WIDTH, OPERAND, EVICT)
        if HAS_BIAS:
            shift = tl.load(bias + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    return matrix, shift


@triton.jit
def map_features(x, matrix, shift, columns, WIDTH: tl.constexpr, HALVES: tl.constexpr, MAP: tl.constexpr,
                 LOG: tl.constexpr, PRECISION: tl.constexpr, AXIS: tl.constexpr = 1):  # fmt: skip
    """Both halves [rows columns] of the features of tokens [rows dims], in float32; with LOG their logarithms.

    With an AXIS of 0 features run down: [columns rows]. Columns past WIDTH are 0, or EMPTY_LOG. A map of one half
    gives it twice.
    """
    real = tl.expand_dims(columns < WIDTH, 1 - AXIS)
    if AXIS == 0:
        x, matrix = tl.trans(x), tl.trans(matrix)
    y = x.to(tl.float32)
    if MAP != IDENTITY:
        y = tl.dot(x, matrix, input_precision=PRECISION) if AXIS == 1 else tl.dot(matrix, x, input_precision=PRECISION)
        y += tl.expand_dims(shift, 1 - AXIS)
    if LOG:
        plus = tl.where(real, y, EMPTY_LOG)
        minus = tl.where(real, -y, EMPTY_LOG)
    elif MAP == IDENTITY:
        plus = y
        minus = y
    else:
        plus, minus = _bounded_halves(y, real, HALVES, MAP, AXIS)
    return plus, minus


@triton.jit
def _bounded_halves(y, real, HALVES: tl.constexpr, MAP: tl.constexpr, AXIS: tl.constexpr):
    if MAP == SOFTMAX_JOINT:
        y *= 2.0
    highest = tl.max(tl.where(real, y, EMPTY_LOG), AXIS, keep_dims=True)
    lowest = tl.min(tl.where(real, y, -EMPTY_LOG), AXIS, keep_dims=True)
    top = highest
    bottom = -lowest
    if MAP == SOFTMAX_JOINT and HALVES == 2:
        top = tl.maximum(highest, -lowest)
        bottom = top
    plus = tl.where(real, tl.exp(y - top), 0.0)
    minus = tl.where(real, tl.exp(-y - bottom), 0.0)
    if MAP == SOFTMAX:
        plus /= tl.sum(plus, AXIS, keep_dims=True)
        minus /= tl.sum(minus, AXIS, keep_dims=True)
    elif MAP == SOFTMAX_JOINT:
        total = tl.sum(plus, AXIS, keep_dims=True)
        if HALVES == 2:
            total += tl.sum(minus, AXIS, keep_dims=True)
        plus /= total
        minus /= total
    return plus, minus


@triton.jit
def map_gradient(plus, minus, grad_plus, grad_minus, HALVES: tl.constexpr, MAP: tl.constexpr, LOG: tl.constexpr):
    """The gradient dy [columns rows] from features and their gradients; with LOG, φ and dφ may share any shift."""
    if MAP == IDENTITY and not LOG:
        grad = grad_plus
    else:
        grad = plus * grad_plus
        other = minus * grad_minus
        if MAP == SOFTMAX:
            grad -= plus * tl.sum(grad, 0)[None, :]
            other -= minus * tl.sum(other, 0)[None, :]
        elif MAP == SOFTMAX_JOINT:
            total = tl.sum(grad, 0)
            if HALVES == 2:
                total += tl.sum(other, 0)
            grad = 2.0 * (grad - plus * total[None, :])
            other = 2.0 * (other - minus * total[None, :])
        elif MAP == EXP_MAX:
            grad -= _share_of_maximum(plus) * tl.sum(grad, 0)[None, :]
            other -= _share_of_maximum(minus) * tl.sum(other, 0)[None, :]
        if HALVES == 2:
            grad -= other
    return grad


@triton.jit
def _share_of_maximum(features):
    """The share of each feature in its token's maximum, which is 1: equal for ties, zero for lesser features."""
    highest = (features == 1.0).to(tl.float32)
    return highest / tl.maximum(tl.sum(highest, 0), 1.0)[None, :]
