"""Sums that take one token after another: decoding, and log features too large for sums without a shift.

A feature's peak grows with each token that is added, so no feature of any size is lost, whatever came before it. A
token is seen if `keep` is true; `halves` are the sums of both halves of a map (see `states`), `at` its columns.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .features import load_keep, load_map, load_vector, map_halves, only_real, row_of
from .states import finish, rescaled


@triton.jit
def token_features(x, keep, mapping, head, at, C: tl.constexpr):
    """Both halves [columns] of the features of the token at `x`, or with LOG of their logarithms, in float32."""
    if C.MAP == "identity":
        y = load_vector(x, at.phi, C.WIDTH, 0.0)[None, :]
    else:
        matrix, shift = load_map(mapping, head, at, C)
        y = (tl.sum(load_vector(x, at.x, C.DIM, 0.0)[:, None] * matrix.to(tl.float32), 0) + shift)[None, :]
    if C.LOG:
        plus = tl.where(keep, only_real(y, at.phi, -1e30, C), -1e30)
        minus = tl.where(keep, only_real(-y, at.phi, -1e30, C), -1e30)
    else:
        plus, minus = map_halves(y, tl.full((1,), 1, tl.int1), 0.0, at.phi, C)
    return tl.sum(plus, 0), tl.sum(minus, 0)


@triton.jit
def load_token(keys, token, at, C: tl.constexpr):
    """Whether a key is seen, the pointer to it, and its values; `keys` are those of `features.keys_of`."""
    keep = load_keep(keys[2], token, token + 1, C.HAS_MASK)
    values = tl.where(keep, load_vector(row_of(keys[1], token), at.v, C.VALUES, 0.0), 0.0)
    return keep, row_of(keys[0], token), values


@triton.jit
def add_token(halves, plus, minus, vector, number, C: tl.constexpr):
    """Adds a token's features, or with LOG their logarithms, times a vector [values] and a number to both sums."""
    first, second = halves
    first = _added(first, plus, vector, number, C)
    if C.HALVES == 2:
        second = _added(second, minus, vector, number, C)
    return first, second


@triton.jit
def _added(half, features, vector, number, C: tl.constexpr):
    total, unit, peak = half
    if C.LOG:
        grown = tl.maximum(peak, features)
        total, unit = rescaled(total, unit, peak - grown)
        features = tl.where(features > -5e29, tl.exp(features - grown), 0.0)
        peak = grown
    return total + features[:, None] * vector[None, :], unit + (features * number)[:, None], peak


@triton.jit
def add_key(halves, keys, mapping, head, token, at, C: tl.constexpr):
    """Adds a key to both sums."""
    keep, x, values = load_token(keys, token, at, C)
    plus, minus = token_features(x, keep, mapping, head, at, C)
    return add_token(halves, plus, minus, values, 1.0, C)


@triton.jit
def answer(queries, mapping, head, token, halves, at, stop, eps, tile, C: tl.constexpr):
    """Stores the output of a query, and if `tile` is 0 its norm."""
    q, output, norms = queries
    plus, minus = token_features(row_of(q, token), True, mapping, head, at, C)
    total, unit, peak = halves[0]
    other, other_unit, other_peak = halves[1]
    scale = tl.zeros((1,), tl.float32)
    if C.LOG:
        plus += peak
        scale += tl.max(plus, 0)
        if C.HALVES == 2:
            minus += other_peak
            scale = tl.maximum(scale, tl.max(minus, 0))
            minus = tl.exp(minus - scale)
        plus = tl.exp(plus - scale)
    numerator, denominator = tl.sum(plus[:, None] * total, 0), tl.sum(plus * tl.sum(unit, 1), 0)
    if C.HALVES == 2:
        numerator += tl.sum(minus[:, None] * other, 0)
        denominator += tl.sum(minus * tl.sum(other_unit, 1), 0)
    divisor = tl.zeros((1,), tl.float32) + denominator * (1.0 / C.UNIT)
    finish(numerator[None, :], divisor, scale, output, norms, token + tl.arange(0, 1), at.v, stop, eps, tile, C)


@triton.jit
def pulled_back(plus, minus, halves, vector, number, C: tl.constexpr):
    """Both halves' weights exp(log φ + peak) [columns], and the gradient of y of a token whose features have them.

    The sums were multiplied with these features; `vector` [values] and `number` are the gradients of the product.
    """
    plus, of_plus = _pulled_half(plus, halves[0], vector, number, C)
    minus, of_minus = _pulled_half(minus, halves[1], vector, number, C)
    if C.HALVES == 2:
        of_plus -= of_minus
    return plus, minus, of_plus


@triton.jit
def _pulled_half(logs, half, vector, number, C: tl.constexpr):
    total, unit, peak = half
    weights = tl.where(logs > -5e29, tl.exp(tl.minimum(logs + peak, 80.0)), 0.0)
    return weights, weights * (tl.sum(total * vector[None, :], 1) + tl.sum(unit, 1) * (number * (1.0 / C.UNIT)))


@triton.jit
def token_through_map(x, keep, grad_y, mapping, head, grad_map, grad_x, at, C: tl.constexpr):
    """Stores the gradient of the token at `x`, from that of y = Wx + b; gives those of W and b with this one added."""
    grad_matrix, grad_shift = grad_map
    found = grad_y
    if C.MAP != "identity":
        matrix, _shift = load_map(mapping, head, at, C)
        found = tl.sum(matrix.to(tl.float32) * grad_y[None, :], 1)
        grad_matrix += tl.where(keep, load_vector(x, at.x, C.DIM, 0.0), 0.0)[:, None] * grad_y[None, :]
        if C.HAS_BIAS:
            grad_shift += grad_y[:, None]
    tl.store(grad_x + at.x, found.to(grad_x.dtype.element_ty), mask=at.x < C.DIM)
    return grad_matrix, grad_shift
