"""Ranks of models, the best of a column and the standing to softmax, by differences that are significant.

A difference is taken over the same documents wherever all seeds of two models have predictions of them: documents are
resampled jointly, and seeds add their spread. Times are compared by the ratio of their medians, less what the machine's
pace explains, other numbers by their standard errors; a score or a time whose error is not known differs from none
significantly, and counts of bytes have no error. p-values are adjusted by Holm's method over all pairs of a column, as
`bench compare` adjusts its own. Only numbers measured under the same conditions are compared, and times only if the
machine was quiet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeAlias

from ..record import Metric
from ..stats.changes import ALPHA, Change, Estimate, adjusted, paired_changes, timings_change, unpaired_change
from ..stats.quiet import beyond_pace, disturbances, is_timed
from .row import REFERENCE_MODEL, Row, grouped

Standing: TypeAlias = Literal["", "better", "same", "worse"]


@dataclass(frozen=True)
class Ranking:
    """Where a row stands among the comparable rows of its column.

    Attributes:
        rank: 1 + how many rows are significantly better, with `=` behind it where rows share it; empty for a row
            without a number, a direction or a peer.
        is_best: Whether the row is significantly better than every other.
        standing: The row compared with softmax's; `same` if their difference is not significant. Empty for softmax
            itself, and unless there is exactly one row of softmax.
        disturbance: Why a time is not compared, such as a machine that was not quiet; empty if it is compared.
    """

    rank: str = ""
    is_best: bool = False
    standing: Standing = ""
    disturbance: str = ""


UNRANKED = Ranking()


def rankings(rows: Sequence[Row]) -> list[Ranking]:
    """The rank of each row among the rows of one comparison; a row without a peer key is compared with any other."""
    found = [UNRANKED] * len(rows)
    ranked = [i for i, row in enumerate(rows) if is_ranked(row)]
    for group in grouped(ranked, lambda i: (rows[i].metric, rows[i].at, rows[i].higher_is_better)).values():
        for key in {rows[i].peer_key for i in group}:
            peers = [i for i in group if not key or rows[i].peer_key in ("", key)]
            for i, place in zip(peers, _quiet_places_of([rows[i] for i in peers]), strict=True):
                if rows[i].peer_key == key:
                    found[i] = place
    return found


def disturbances_of(rows: Sequence[Row]) -> list[str]:
    """Why the time of each row of a column is not compared; empty if it is compared, or if the row is no time."""
    timed = [i for i, row in enumerate(rows) if is_timed(row.unit)]
    found = dict(zip(timed, disturbances([rows[i].evidence for i in timed]), strict=True))
    return [found.get(i, "") for i in range(len(rows))]


def is_ranked(row: Row) -> bool:
    """Whether a row has a number and a direction."""
    return row.higher_is_better is not None and row.value is not None and not math.isnan(row.value)


def differences(rows: Sequence[Row]) -> dict[tuple[int, int], Change]:
    """How much worse the second row of each pair is than the first, by the most certain method that both allow."""
    by_documents = grouped(
        (i for i, row in enumerate(rows) if row.evidence.scores),
        lambda i: (rows[i].seeds, rows[i].evidence.scores[0].labels),
    )
    found: dict[tuple[int, int], Change] = {}
    for group in by_documents.values():
        found |= paired_changes(_metric(rows[group[0]]), {i: rows[i].evidence.scores for i in group})
    paired = {pair for pair, change in found.items() if math.isfinite(change.worse)}
    return {pair: found[pair] if pair in paired else _unpaired(*(rows[i] for i in pair)) for pair in _pairs(rows)}


def pairing(rows: Iterable[Row]) -> str:
    """How the rows of a column are compared, in words; empty if fewer than two are ranked."""
    ranked = [row for row in rows if is_ranked(row)]
    if len(ranked) < 2:
        return ""
    paired = {(row.seeds, row.evidence.scores[0].labels) for row in ranked if row.evidence.scores}
    if len(paired) != 1 or not all(row.evidence.scores for row in ranked):
        return "not all paired" if len(ranked) > len(paired) > 0 else "not paired"
    ((seeds, labels),) = paired
    over_seeds = f" and {seeds.count(',') + 1} seeds" if "," in seeds else ""
    return f"paired over {len(labels)} documents{over_seeds}"


def _pairs(rows: Sequence[Row]) -> Iterable[tuple[int, int]]:
    return combinations(range(len(rows)), 2)


def _metric(row: Row) -> Metric:
    return Metric(row.metric, row.value, row.unit, row.higher_is_better, row.stderr, row.n)


def _unpaired(one: Row, other: Row) -> Change:
    if not one.is_quality and one.evidence.timings and other.evidence.timings:
        change = timings_change(_metric(one), one.evidence.timings, other.evidence.timings)
        return beyond_pace(change, one.evidence, other.evidence)
    estimates = _estimate(one), _estimate(other)
    change = unpaired_change(_metric(one), *estimates)
    is_exact = not one.is_quality and not is_timed(one.unit)
    is_known = is_exact or all(each.stderr is not None for each in estimates) or math.isinf(change.worse)
    return change if is_known else replace(change, stderr=None)


def _estimate(row: Row) -> Estimate:
    assert row.value is not None
    stderr = row.stderr if row.stderr is not None and math.isfinite(row.stderr) else None
    return Estimate(row.value, stderr, row.seeds.count(",") + 1)


def _quiet_places_of(peers: Sequence[Row]) -> list[Ranking]:
    """The places of those whose numbers may be compared."""
    reasons = disturbances_of(peers) if len(peers) > 1 else [""]
    places = iter(_places_of([row for row, reason in zip(peers, reasons, strict=True) if not reason]))
    return [Ranking(disturbance=reason) if reason else next(places) for reason in reasons]


def _places_of(peers: Sequence[Row]) -> list[Ranking]:
    if len(peers) < 2:
        return [UNRANKED] * len(peers)
    beats = _beats(differences(peers))
    everyone = range(len(peers))
    numbers = [1 + sum((other, i) in beats for other in everyone) for i in everyone]
    shared = Counter(numbers)
    softmax = [i for i in everyone if peers[i].model == REFERENCE_MODEL]
    return [
        Ranking(
            f"{number}=" if shared[number] > 1 else str(number),
            all((i, other) in beats for other in everyone if other != i),
            _standing(beats, i, softmax[0]) if len(softmax) == 1 else "",
        )
        for i, number in enumerate(numbers)
    ]


def _beats(changes: Mapping[tuple[int, int], Change]) -> set[tuple[int, int]]:
    """Pairs of which the first is significantly better than the second."""
    p_values = adjusted({pair: p for pair, change in changes.items() if (p := change.p_value) is not None})
    significant = [pair for pair, p_value in p_values.items() if p_value < ALPHA]
    return {(one, other) if changes[one, other].worse > 0 else (other, one) for one, other in significant}


def _standing(beats: set[tuple[int, int]], i: int, softmax: int) -> Standing:
    if i == softmax:
        return ""
    return "better" if (i, softmax) in beats else "worse" if (softmax, i) in beats else "same"
