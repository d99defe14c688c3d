"""Ranks of models by their 95 % intervals: ties, the best of a column, and the standing to softmax.

Only numbers measured under the same conditions are compared.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..stats.statistics import errors_that_count
from .aggregate import REFERENCE_MODEL, Row, grouped

Standing: TypeAlias = Literal["", "better", "same", "worse"]


@dataclass(frozen=True)
class Ranking:
    """Where a row stands among the comparable rows of its column.

    Attributes:
        rank: 1 + how many rows are better with their whole 95 % interval, with `=` behind it where rows share it;
            empty for a row without a number, a direction or a peer.
        is_best: Whether no row has a better value, and at least one other has a value.
        standing: The row against softmax's, `same` if the intervals overlap; empty for softmax itself, and unless
            there is exactly one row of softmax.
    """

    rank: str = ""
    is_best: bool = False
    standing: Standing = ""


UNRANKED = Ranking()


@dataclass(frozen=True)
class _Interval:
    """A row's 95 % interval, turned so that more is better; an error that is not known counts as zero."""

    low: float
    value: float
    high: float
    is_reference: bool


def rankings(rows: Sequence[Row]) -> list[Ranking]:
    """The rank of each row among the rows of one comparison; a row without a peer key is compared with any other."""
    intervals = {i: interval for i, row in enumerate(rows) if (interval := _interval(row))}
    found = [UNRANKED] * len(rows)
    for group in grouped(intervals, lambda i: (rows[i].metric, rows[i].at, rows[i].higher_is_better)).values():
        for key in {rows[i].peer_key for i in group}:
            peers = [i for i in group if not key or rows[i].peer_key in ("", key)]
            ranked = _places_of([intervals[i] for i in peers])
            for i, place in zip(peers, ranked, strict=True):
                if rows[i].peer_key == key:
                    found[i] = place
    return found


def half_width(row: Row) -> float:
    """Half of the 95 % interval around a row's value; 0 if its error is not known."""
    if not row.stderr or not math.isfinite(row.stderr):
        return 0.0
    return row.stderr * errors_that_count(row.seeds.count(",") + 1)


def _places_of(peers: Sequence[_Interval]) -> list[Ranking]:
    if len(peers) < 2:
        return [UNRANKED] * len(peers)
    lows = sorted(peer.low for peer in peers)
    numbers = [1 + len(lows) - bisect_right(lows, peer.high) for peer in peers]
    shared = Counter(numbers)
    best = max(peer.value for peer in peers)
    references = [peer for peer in peers if peer.is_reference]
    return [
        Ranking(
            f"{number}=" if shared[number] > 1 else str(number),
            peer.value == best,
            _standing(peer, references[0]) if len(references) == 1 else "",
        )
        for peer, number in zip(peers, numbers, strict=True)
    ]


def _standing(interval: _Interval, reference: _Interval) -> Standing:
    if interval is reference:
        return ""
    if interval.low > reference.high:
        return "better"
    return "worse" if interval.high < reference.low else "same"


def _interval(row: Row) -> _Interval | None:
    if row.higher_is_better is None or row.value is None or math.isnan(row.value):
        return None
    value = row.value if row.higher_is_better else -row.value
    half = half_width(row)
    return _Interval(value - half, value, value + half, row.model == REFERENCE_MODEL)
