"""Hedgehog's feature map inside Triton kernels: features of a tile of tokens, and their gradient back to y = Wx + b.

The half of y and the half of -y are separate tiles, so that no tile has to be joined or split. Log features stay
logarithms here; callers exponentiate them after a shift.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

IDENTITY = tl.constexpr(0)
EXP_MAX = tl.constexpr(2)
SOFTMAX = tl.constexpr(3)
SOFTMAX_JOINT = tl.constexpr(4)

MAP_CODES = {"identity": 0, "exp": 1, "exp_max": 2, "softmax": 3, "softmax_joint": 4}
"""Codes of the variants of `HedgehogMap`; "identity" is for calls whose features are given."""

NO_HINT = tl.constexpr("")
"""The default eviction policy of a read."""

EMPTY_LOG = tl.constexpr(-1e30)
"""`state.EMPTY_LOG` as a constant of kernels."""


@triton.jit
def load_tile(base, rows, columns, row_stride, end, WIDTH: tl.constexpr, OPERAND: tl.constexpr,
              EVICT: tl.constexpr = NO_HINT):  # fmt: skip
    """The tile [rows columns] of a matrix [end WIDTH], in the type OPERAND; zero outside the matrix."""
    inside = (rows[:, None] < end) & (columns[None, :] < WIDTH)
    offsets = rows[:, None].to(tl.int64) * row_stride + columns[None, :]
    return tl.load(base + offsets, mask=inside, other=0.0, eviction_policy=EVICT).to(OPERAND)


@triton.jit
def store_tile(base, tile, rows, columns, row_stride, end, WIDTH: tl.constexpr):
    """Stores a tile [rows columns] to a matrix [end WIDTH]; entries outside the matrix are left out."""
    inside = (rows[:, None] < end) & (columns[None, :] < WIDTH)
    offsets = rows[:, None].to(tl.int64) * row_stride + columns[None, :]
    tl.store(base + offsets, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_keep(mask, rows, end, HAS_MASK: tl.constexpr):
    """A mask [rows], true at tokens that exist and are not padding."""
    keep = rows < end
    if HAS_MASK:
        keep &= tl.load(mask + rows, mask=keep, other=0) != 0
    return keep


@triton.jit
def load_values(v, rows, columns, row_stride, end, keep, VALUES: tl.constexpr, OPERAND: tl.constexpr,
                HAS_MASK: tl.constexpr = True, EVICT: tl.constexpr = NO_HINT):  # fmt: skip
    """Values or keys [rows columns], zero where a token is padding, whatever its memory holds."""
    values = load_tile(v, rows, columns, row_stride, end, VALUES, OPERAND, EVICT)
    if HAS_MASK:
        values = tl.where(keep[:, None], values, 0.0).to(OPERAND)
    return values


@triton.jit
def load_map(weight, bias, head, dims, columns, C: tl.constexpr, EVICT: tl.constexpr = NO_HINT):
    """W [dims columns] and b [columns] of one head; for the identity, zeros that are not read."""
    shift = tl.zeros(columns.shape, tl.float32)
    matrix = tl.zeros((dims.shape[0], columns.shape[0]), C.OPERAND)
    if C.MAP != IDENTITY:
        matrix = load_tile(weight + head * C.DIM * C.WIDTH, dims, columns, C.WIDTH, C.DIM, C.WIDTH, C.OPERAND, EVICT)
        if C.HAS_BIAS:
            shift = tl.load(bias + head * C.WIDTH + columns, mask=columns < C.WIDTH, other=0.0).to(tl.float32)
    return matrix, shift


@triton.jit
def map_features(x, matrix, shift, columns, C: tl.constexpr):
    """Both halves [columns rows] of the features of tokens [rows dims], in float32; with LOG their logarithms.

    Columns past WIDTH are 0, or `EMPTY_LOG` with LOG. If HALVES is 1, the second half is not to be used.
    """
    y = tl.trans(x).to(tl.float32)
    if C.MAP != IDENTITY:
        y = tl.dot(tl.trans(matrix), tl.trans(x), input_precision=C.PRECISION) + shift[:, None]
    return map_halves(y, (columns < C.WIDTH)[:, None], C)


@triton.jit
def map_halves(y, real, C: tl.constexpr):
    """Both halves of the features, or of their logarithms, from y = Wx + b [columns ..]; see `map_features`."""
    if C.LOG:
        plus = tl.where(real, y, EMPTY_LOG)
        minus = tl.where(real, -y, EMPTY_LOG)
    elif C.MAP == IDENTITY:
        plus = y
        minus = y
    else:
        if C.MAP == SOFTMAX_JOINT:
            y *= 2.0
        top = tl.max(tl.where(real, y, EMPTY_LOG), 0, keep_dims=True)
        bottom = -tl.min(tl.where(real, y, -EMPTY_LOG), 0, keep_dims=True)
        if C.MAP == SOFTMAX_JOINT and C.HALVES == 2:
            top = tl.maximum(top, bottom)
            bottom = top
        plus = tl.where(real, tl.exp(y - top), 0.0)
        minus = tl.where(real, tl.exp(-y - bottom), 0.0)
        if C.MAP == SOFTMAX:
            plus /= tl.sum(plus, 0, keep_dims=True)
            minus /= tl.sum(minus, 0, keep_dims=True)
        elif C.MAP == SOFTMAX_JOINT:
            total = tl.sum(plus, 0, keep_dims=True)
            if C.HALVES == 2:
                total += tl.sum(minus, 0, keep_dims=True)
            plus /= total
            minus /= total
    return plus, minus


@triton.jit
def map_gradient(plus, minus, grad_plus, grad_minus, C: tl.constexpr):
    """The gradient dy [columns rows] from features φ and their gradients dφ; with LOG a shift must cancel in φ·dφ."""
    if C.MAP == IDENTITY and not C.LOG:
        grad = grad_plus
    else:
        grad = plus * grad_plus
        other = minus * grad_minus
        if C.MAP == SOFTMAX:
            grad -= plus * tl.sum(grad, 0)[None, :]
            other -= minus * tl.sum(other, 0)[None, :]
        elif C.MAP == SOFTMAX_JOINT:
            total = tl.sum(grad, 0)
            if C.HALVES == 2:
                total += tl.sum(other, 0)
            grad = 2.0 * (grad - plus * total[None, :])
            other = 2.0 * (other - minus * total[None, :])
        elif C.MAP == EXP_MAX:
            grad -= _share_of_maximum(plus) * tl.sum(grad, 0)[None, :]
            other -= _share_of_maximum(minus) * tl.sum(other, 0)[None, :]
        if C.HALVES == 2:
            grad -= other
    return grad


@triton.jit
def _share_of_maximum(features):
    """The share of each feature in the gradient of its token's maximum, which is 1; equal features share it equally."""
    highest = (features == 1.0).to(tl.float32)
    return highest / tl.maximum(tl.sum(highest, 0), 1.0)[None, :]
