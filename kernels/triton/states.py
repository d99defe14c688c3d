"""What the kernels of linear attention share: segments, and the sums that go from one segment to the next.

A segment is `span` tokens of one sequence; a kernel has a program for each segment and head, in a slot of its own. The
sums over the keys of earlier segments, or over the queries of later ones, are added up from those of each segment.

One half's sums are three: Σ φ vᵀ, Σ φ in `UNIT` equal columns, so that products with ones compute it, and a peak. A
map with one half has the sums of the other too, which nothing reads.

In log space sums are those of exp(log φ - peak). The peak of a feature is 0 while the log features of all keys so far
are `TAME`; then it is its largest log feature, like the log_scale of `state.LinearState`.
"""

# Triton's declarations know neither what its compiler makes of constants nor that tensors have operators.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .features import columns_from, dense, filled, load_tile, load_vector, store_tile, vector_of


class Segment(NamedTuple):
    """A segment: its sequence and entry of the batch, its first token and its end, and the end of its sequence.

    `first`, `slot` and `last` are the slots of the sequence's first segment, of this one, and of one past its last.
    """

    sequence: Any
    batch: Any
    start: Any
    stop: Any
    end: Any
    first: Any
    slot: Any
    last: Any


@triton.jit
def locate(slot, ends, sizes, C: tl.constexpr):
    """The segment in a slot; the first token of a slot that holds no segment is not before its end.

    `sizes` are the tokens of a batch entry and of a segment, the segments of a sequence, unless PACKED, and the number
    of sequences; with PACKED `ends` has 0, then the end of each sequence.
    """
    tokens, span, segments, sequences = sizes
    sequence, first, begin, end = slot // segments, slot // segments * segments, 0, tokens
    batch = sequence
    if C.PACKED:
        # Sequence s has the slots from ends[s] // span + s on, which leaves room for a last segment of fewer tokens.
        low, high = 0, sequences
        while high - low > 1:
            middle = (low + high) // 2
            here = tl.load(ends + middle).to(tl.int32) // span + middle <= slot
            low, high = tl.where(here, middle, low), tl.where(here, high, middle)
        begin, end = tl.load(ends + low).to(tl.int32), tl.minimum(tl.load(ends + low + 1).to(tl.int32), tokens)
        sequence, first, batch = low, begin // span + low, 0
    start = begin + (slot - first) * span
    last = first + (end - begin + span - 1) // span
    stop = tl.minimum(start + span, end)
    return Segment(sequence.to(tl.int64), tl.cast(batch, tl.int64), start, stop, end, first, slot, last)


@triton.jit
def tile_columns(C: tl.constexpr):
    """A program's columns, and its tile of values.

    The grid's third axis has the tiles of values or, if features do not fit into a tile, theirs beside all values.
    """
    tile, column = tl.program_id(2), 0
    if C.WIDTH > C.BW:
        tile, column = 0, tile * C.BW
    return columns_from(column, tile * C.BV, C), tile


@triton.jit
def in_columns(vector, C: tl.constexpr):
    """A vector [columns] as `UNIT` equal columns."""
    return filled(0.0, vector.shape[0], C.UNIT, tl.float32) + vector[:, None]


@triton.jit
def operand_of(unit, C: tl.constexpr):
    """`UNIT` equal columns as an operand of products with as many columns, whose sum is then 16 times the product.

    An operand of bfloat16 keeps twice the digits: its first columns hold the number, its last what rounding left.
    """
    index = tl.arange(0, C.UNIT)[None, :]
    high = unit.to(C.OPERAND)
    low = unit - high.to(tl.float32)
    return (tl.where(index < C.UNIT // 2, high.to(tl.float32), low) * 2.0).to(C.OPERAND)


@triton.jit
def spread(rows, total: tl.constexpr, C: tl.constexpr):
    """Numbers [rows] as an operand [rows UNIT] whose columns add up to `total` numbers; twice the digits of bfloat16.

    With a total of 1 its product with `operand_of` is that of the numbers.
    """
    index = tl.arange(0, C.UNIT)[None, :]
    high = rows.to(C.OPERAND).to(tl.float32)
    return (tl.where(index % 2 == 0, high[:, None], (rows - high)[:, None]) * (total * 2.0 / C.UNIT)).to(C.OPERAND)


@triton.jit
def rescaled(total, unit, exponent):
    """A sum and its vector times exp(exponent) [columns]."""
    factor = tl.exp(exponent)
    return total * factor[:, None], unit * factor[:, None]


@triton.jit
def without_peaks(halves, more, C: tl.constexpr):
    """Both halves' sums times exp(peak + more), cut where that is too large, with a peak of 0; `more` is [columns]."""
    plus, minus = halves
    total, unit = rescaled(plus[0], plus[1], tl.minimum(plus[2] + more[0], 80.0))
    plus = total, unit, tl.zeros_like(plus[2])
    if C.HALVES == 2:
        total, unit = rescaled(minus[0], minus[1], tl.minimum(minus[2] + more[1], 80.0))
    return plus, (total, unit, plus[2])


@triton.jit
def tamed(halves, highest, C: tl.constexpr):
    """Both halves' sums without peaks, with LOG, and the largest logarithms [rows] with those of the peaks."""
    if C.LOG:
        highest += wildness(halves[0][2], halves[1][2], C)
        halves = without_peaks(halves, (0.0, 0.0), C)
    return halves, highest


@triton.jit
def read_sums(pointers, place, at, C: tl.constexpr):
    """One half's sums from memory; without LOG the peak is a zero that is not read."""
    sums, vectors, peaks = pointers
    total = load_tile(dense(sums + place * C.VALUES, C.VALUES), at.phi, at.v, C.WIDTH, C.VALUES, tl.float32)
    unit = in_columns(load_vector(vectors + place, at.phi, C.WIDTH, 0.0), C)
    peak = tl.zeros(at.phi.shape, tl.float32)
    if C.LOG:
        peak = load_vector(peaks + place, at.phi, C.WIDTH, -1e30)
    return total, unit, peak


@triton.jit
def write_halves(pointers, place, halves, at, tile, PEAKS: tl.constexpr, C: tl.constexpr):
    """Stores the sums of all halves that the map has; only the first tile of values stores vectors and PEAKS."""
    sums, vectors, peaks = pointers
    for index in tl.static_range(1 + (C.HALVES == 2)):
        total, unit, peak = halves[index]
        here = place + index * C.WIDTH
        store_tile(dense(sums + here * C.VALUES, C.VALUES), total, at.phi, at.v, C.WIDTH, C.VALUES)
        if tile == 0:
            tl.store(vectors + here + at.phi, tl.sum(unit, 1) * (1.0 / C.UNIT), mask=at.phi < C.WIDTH)
            if PEAKS:
                tl.store(peaks + here + at.phi, peak, mask=at.phi < C.WIDTH)


@triton.jit
def no_sums(peak, C: tl.constexpr):
    """Both halves' sums of nothing, with a peak."""
    none = (filled(0.0, C.BW, C.BV, tl.float32), filled(0.0, C.BW, C.UNIT, tl.float32), vector_of(peak, C.BW))
    return none, none


@triton.jit
def sums_between(given, segments, sequence, first, until, head, heads, at, C: tl.constexpr):
    """Both halves' sums that are given for a sequence, unless None, and of the segments in slots `first` to `until`."""
    plus = _sums_between(given, segments, sequence, first, until, head, heads, 0, at, C)
    minus = plus
    if C.HALVES == 2:
        minus = _sums_between(given, segments, sequence, first, until, head, heads, C.WIDTH, at, C)
    return plus, minus


@triton.jit
def _sums_between(given, segments, sequence, first, until, head, heads, column, at, C: tl.constexpr):
    total, unit, peak = no_sums(-1e30, C)[0]
    if given[0] is not None:
        total, unit, peak = read_sums(given, (sequence * heads + head) * C.FEATURES + column, at, C)
    for slot in range(first, until):
        place = (tl.cast(slot, tl.int64) * heads + head) * C.FEATURES + column
        more, more_unit, own = read_sums(segments, place, at, C)
        if C.LOG:
            grown = tl.maximum(peak, own)
            total, unit = rescaled(total, unit, peak - grown)
            more, more_unit = rescaled(more, more_unit, own - grown)
            peak = grown
        total += more
        unit += more_unit
    return total, unit, peak


@triton.jit
def peaks_before(initial_peaks, peaks, sequence, first, until, head, heads, columns, C: tl.constexpr):
    """Both halves' peaks of the initial state and of the segments in slots `first` to `until`."""
    plus = tl.full(columns.shape, -1e30, tl.float32)
    minus, last = plus, (C.HALVES - 1) * C.WIDTH
    if initial_peaks is not None:
        initial_peaks += (sequence * heads + head) * C.FEATURES
        plus = load_vector(initial_peaks, columns, C.WIDTH, -1e30)
        minus = load_vector(initial_peaks + last, columns, C.WIDTH, -1e30)
    for slot in range(first, until):
        place = peaks + (tl.cast(slot, tl.int64) * heads + head) * C.FEATURES
        plus = tl.maximum(plus, load_vector(place, columns, C.WIDTH, -1e30))
        minus = tl.maximum(minus, load_vector(place + last, columns, C.WIDTH, -1e30))
    return plus, minus


@triton.jit
def wildness(plus_peak, minus_peak, C: tl.constexpr):
    """The largest absolute value of peaks of features that have seen a key."""
    highest = tl.where(plus_peak > -5e29, tl.abs(plus_peak), 0.0)
    if C.HALVES == 2:
        highest = tl.maximum(highest, tl.where(minus_peak > -5e29, tl.abs(minus_peak), 0.0))
    return tl.max(highest, 0)


@triton.jit
def row_gradients(norms, pull, grad, rows, end, C: tl.constexpr):
    """A row's norm, and the gradients g [rows values] of its numerator, an operand, and h [rows] of its denominator.

    Of the gradient do [rows values] of the output o, and of `pull` = o·do [rows].

    With o = numerator / denominator, g = do / denominator and h = -(o·do) / denominator. With LOG the norm is the
    logarithm of the denominator; then g = do and h = -(o·do), and callers take the norm off the row's log features.
    """
    norm = tl.load(norms + rows, mask=rows < end, other=1.0)
    pull = -pull
    if not C.LOG:
        reciprocal = 1.0 / norm
        grad *= reciprocal[:, None]
        pull *= reciprocal
    return norm, grad.to(C.OPERAND), pull


@triton.jit
def finish(numerator, denominator, scale, output, norms, rows, columns, end, eps, tile, C: tl.constexpr):
    """Divides, unless columns take several tiles, and stores outputs and norms.

    A row without keys gives zero; with LOG and NORMALIZE its norm is 1e30.
    """
    norm = tl.full(rows.shape, 0.0 if C.LOG else 1.0, tl.float32)
    if C.NORMALIZE:
        if C.LOG:
            seen = denominator > 0
            divisor = tl.where(seen, denominator, 1.0)
            norm = tl.where(seen, scale + tl.log(divisor), 1e30)
        else:
            divisor = denominator + eps
            norm = divisor
        if C.WIDTH <= C.BW:
            numerator *= (1.0 / divisor)[:, None]
    elif C.LOG:
        numerator *= tl.exp(scale)[:, None]
    store_tile(output, numerator, rows, columns, end, C.VALUES)
    if tile == 0:
        tl.store(norms + rows, norm, mask=rows < end)
