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
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .features import filled, load_tile, load_vector, store_tile


@triton.jit
def locate(slot, ends, tokens, span, segments, sequences, C: tl.constexpr):
    """The segment in a slot.

    Args:
        slot: the slot.
        ends: with PACKED 0, then the end of each sequence.
        tokens: tokens of a batch entry.
        span: tokens of a segment.
        segments: segments of a sequence, without PACKED.
        sequences: number of sequences.
        C: constants.

    Returns:
        Sequence and batch entry; first token of the segment, its end, and the end of the sequence; the slots of the
        sequence's first segment, of this one, and of one past the sequence's last. The first token of a slot that
        holds no segment is not before its end.
    """
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
    return (sequence.to(tl.int64), tl.cast(batch, tl.int64), start, tl.minimum(start + span, end), end, first, slot,
            last)  # fmt: skip


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
def spread(rows, C: tl.constexpr):
    """Numbers [rows] as an operand [rows UNIT], whose product with `operand_of` is that of the numbers.

    The sum of the columns is the number; of bfloat16 with twice the digits.
    """
    index = tl.arange(0, C.UNIT)[None, :]
    high = rows.to(C.OPERAND).to(tl.float32)
    return (tl.where(index % 2 == 0, high[:, None], (rows - high)[:, None]) * (2.0 / C.UNIT)).to(C.OPERAND)


@triton.jit
def rescaled(total, unit, exponent):
    """A sum and its vector times exp(exponent) [columns]."""
    factor = tl.exp(exponent)
    return total * factor[:, None], unit * factor[:, None]


@triton.jit
def read_sums(pointers, place, columns, value_columns, C: tl.constexpr):
    """One half's sums from memory; without LOG the peak is a zero that is not read."""
    sums, vectors, peaks = pointers
    total = load_tile(sums + place * C.VALUES, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES, tl.float32)
    unit = in_columns(load_vector(vectors + place, columns, C.WIDTH, 0.0), C)
    peak = tl.zeros(columns.shape, tl.float32)
    if C.LOG:
        peak = load_vector(peaks + place, columns, C.WIDTH, -1e30)
    return total, unit, peak


@triton.jit
def write_sums(pointers, place, half, columns, value_columns, tile, LOG: tl.constexpr, C: tl.constexpr):
    """Stores one half's sums; only the first tile of values stores vectors and peaks."""
    sums, vectors, peaks = pointers
    total, unit, peak = half
    store_tile(sums + place * C.VALUES, total, columns, value_columns, C.VALUES, C.WIDTH, C.VALUES)
    if tile == 0:
        tl.store(vectors + place + columns, tl.sum(unit, 1) * (1.0 / C.UNIT), mask=columns < C.WIDTH)
        if LOG:
            tl.store(peaks + place + columns, peak, mask=columns < C.WIDTH)


@triton.jit
def write_halves(pointers, place, halves, columns, value_columns, tile, LOG: tl.constexpr, C: tl.constexpr):
    """Stores the sums of all halves that the map has."""
    write_sums(pointers, place, halves[0], columns, value_columns, tile, LOG, C)
    if C.HALVES == 2:
        write_sums(pointers, place + C.WIDTH, halves[1], columns, value_columns, tile, LOG, C)


@triton.jit
def sums_before(initial, segments, sequence, first, until, kv_head, kv_heads, half, columns, value_columns,
                C: tl.constexpr):  # fmt: skip
    """One half's sums of the initial state and of the segments in slots `first` to `until`."""
    total = tl.zeros((columns.shape[0], value_columns.shape[0]), tl.float32)
    unit = filled(0.0, C.BW, C.UNIT, tl.float32)
    peak = tl.full(columns.shape, -1e30, tl.float32)
    if C.HAS_INITIAL:
        place = (sequence * kv_heads + kv_head) * C.FEATURES + half * C.WIDTH
        total, unit, peak = read_sums(initial, place, columns, value_columns, C)
    for slot in range(first, until):
        place = (tl.cast(slot, tl.int64) * kv_heads + kv_head) * C.FEATURES + half * C.WIDTH
        more, more_unit, own = read_sums(segments, place, columns, value_columns, C)
        if C.LOG:
            grown = tl.maximum(peak, own)
            total, unit = rescaled(total, unit, peak - grown)
            more, more_unit = rescaled(more, more_unit, own - grown)
            peak = grown
        total += more
        unit += more_unit
    return total, unit, peak


@triton.jit
def peaks_before(initial_peaks, peaks, sequence, first, until, kv_head, kv_heads, columns, C: tl.constexpr):
    """Both halves' peaks of the initial state and of the segments in slots `first` to `until`."""
    plus = tl.full(columns.shape, -1e30, tl.float32)
    minus, last = plus, (C.HALVES - 1) * C.WIDTH
    if C.HAS_INITIAL:
        initial_peaks += (sequence * kv_heads + kv_head) * C.FEATURES
        plus = load_vector(initial_peaks, columns, C.WIDTH, -1e30)
        minus = load_vector(initial_peaks + last, columns, C.WIDTH, -1e30)
    for slot in range(first, until):
        place = peaks + (tl.cast(slot, tl.int64) * kv_heads + kv_head) * C.FEATURES
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
def load_row_gradients(norms, pulls, grad, rows, end, C: tl.constexpr):
    """`row_gradients` with o·do of each row from memory."""
    return row_gradients(norms, tl.load(pulls + rows, mask=rows < end, other=0.0), grad, rows, end, C)


@triton.jit
def finish(numerator, denominator, scale, output, norms, rows, value_columns, row_stride, end, eps, tile,
            C: tl.constexpr):  # fmt: skip
    """Divides, and stores outputs and norms. A row without keys gives zero; with LOG and NORMALIZE its norm is 1e30."""
    norm = tl.full(rows.shape, 0.0 if C.LOG else 1.0, tl.float32)
    if C.NORMALIZE:
        if C.LOG:
            seen = denominator > 0
            divisor = tl.where(seen, denominator, 1.0)
            norm = tl.where(seen, scale + tl.log(divisor), 1e30)
        else:
            divisor = denominator + eps
            norm = divisor
        numerator *= (1.0 / divisor)[:, None]
    elif C.LOG:
        numerator *= tl.exp(scale)[:, None]
    store_tile(output, numerator, rows, value_columns, row_stride, end, C.VALUES)
    if tile == 0:
        tl.store(norms + rows, norm, mask=rows < end)
