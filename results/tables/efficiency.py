"""Summaries of sweeps: the length from which a model is cheaper than softmax, and the growth of its costs.

Crossovers lie only between lengths at which both models were measured; nothing is extrapolated. Two times differ if the
tables' marks say so: their error is between processes as well as within one, and what the machine's pace explains of a
ratio is taken off (see `ranks.py`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ..stats.changes import ALPHA, Change, satterthwaite
from ..stats.quiet import is_timed
from .aggregate import is_comparable
from .ranks import differences, disturbances_of
from .row import AXIS, REFERENCE_MODEL, Conditions, ModelKey, Row, grouped

EXPONENTS = ("time_exponent", "memory_exponent")

SPREAD = ("_p20", "_p80")
"""Suffixes of the names of a metric's 20th and 80th percentile."""
UNDECIDED = "undecided"
"""Prefix of the text of a crossover or an exponent that could not be decided."""

WIDEST = 1.0
"""Widest 95 % interval of an exponent that is shown: a wider one cannot tell linear from quadratic growth."""
_FITS = ("_exponent", "_exponent_low", "_exponent_high")
_DETAILS = ("_flops", "_traffic_bytes", "_sm_clock_mhz", "_throttled", "peak_resident_bytes")
_COSTS = ("_ms", "_bytes")
_RATES = ("_tokens_per_s",)
_NO_COSTS = ("pace_ms", "peak_reserved_bytes", "peak_resident_bytes")
_Sweep: TypeAlias = tuple[Conditions, str, str]


@dataclass(frozen=True)
class Crossover:
    """From which length on a model is cheaper than softmax.

    Attributes:
        model: The model and its variant.
        kind: `at` a length between two measured ones, `always` (at every measured length), `never`, or `undecided`:
            the machine was not quiet, or an interval decides neither.
        length: Where the lines through the measured points cross, on logarithmic axes; None unless `at`.
        value: The cost or rate of both at that length; None unless `at`.
        shortest: The shortest length at which both were measured.
        longest: The longest length at which both were measured.
        stderr: Standard error of `length`, from those of the four points around it; None unless `at`, or if a point
            has none.
        reason: Why it is undecided.
    """

    model: ModelKey
    kind: Literal["at", "always", "never", "undecided"]
    length: float | None
    value: float | None
    shortest: float
    longest: float
    stderr: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The crossover in a few words."""
        if self.kind == "undecided":
            return f"{UNDECIDED}: {self.reason}"
        if self.kind == "at":
            return f"{self.length:.0f}" + (f" ± {self.stderr:.0f}" if self.stderr is not None else "")
        if self.kind == "always":
            return f"at every length from {self.shortest:g}"
        return f"not up to {self.longest:g}"


@dataclass(frozen=True)
class SweepSummary:
    """A table of texts: a title, a heading and a detail for each column, and one text per column for each model."""

    title: str
    columns: tuple[tuple[str, str], ...]
    texts: Mapping[ModelKey, tuple[str, ...]]


def is_detail(row: Row) -> bool:
    """Whether a row of a sweep is shown in files and summaries alone: percentiles, counts, and fitted exponents."""
    return row.metric.endswith((*SPREAD, *_FITS, *_DETAILS))


def crossovers(rows: Iterable[Row]) -> dict[_Sweep, list[Crossover]]:
    """The crossovers of every sweep of a cost or a rate over length, by comparison, metric and other coordinates."""
    sweeps = grouped(filter(is_cost, rows), lambda row: (row.comparison, row.metric, row.other_coordinates(AXIS)))
    return {sweep: every for sweep, points in sweeps.items() if (every := crossovers_of_sweep(points))}


def crossovers_of_sweep(rows: Sequence[Row]) -> list[Crossover]:
    """The crossovers of the models of one sweep with softmax, in the rows' order; empty unless it is a cost or a rate.

    If a task measures several kernels of softmax attention, as `kernels/*` do, the cheapest at each length counts. The
    cost of a token is the reciprocal of tokens per second.
    """
    rows = [row for row in rows if is_cost(row)]
    kernels = [row for row in rows if row.model.startswith(f"{REFERENCE_MODEL}-")]
    softmax = [row for row in rows if row.model == REFERENCE_MODEL] or kernels
    if len({row.variant for row in softmax}) != 1:
        return []
    references = {row.model for row in softmax}
    every = []
    for model, own in grouped((row for row in rows if row.model not in references), lambda row: row.key).items():
        comparable = [row for row in own if is_comparable(row, softmax[0])]
        found = _crossover(model, _lowest(softmax), _lowest(comparable))
        if found is not None and (reason := _disturbance([*softmax, *comparable])):
            found = _undecided(found, reason)
        if found is not None and found.value is not None and _is_rate(own[0]):
            found = replace(found, value=1 / found.value)
        every += [found] if found else []
    return every


def summaries(rows: Sequence[Row]) -> list[SweepSummary]:
    """Tables of exponents with their intervals, and of crossovers with softmax; empty ones are left out."""
    found = [_exponent_summary(rows, name) for name in EXPONENTS]
    found.append(_crossover_summary(crossovers(rows)))
    return [summary for summary in found if summary.texts]


def is_cost(row: Row) -> bool:
    """Whether a row is a point of a sweep of times, rates or memory over length that is compared with softmax's."""
    is_named = row.metric.endswith((*_COSTS, *_RATES)) and row.metric not in _NO_COSTS
    return row.has_seq_len and is_named and not is_detail(row)


def _is_rate(row: Row) -> bool:
    return row.metric.endswith(_RATES)


@dataclass(frozen=True)
class _Cost:
    """A cost, and the row that it is of."""

    value: float
    row: Row


def _lowest(rows: Iterable[Row]) -> dict[float, _Cost]:
    found: dict[float, _Cost] = {}
    for row in rows:
        if row.value is not None and row.value > 0:
            length = row.seq_len
            cost = 1 / row.value if _is_rate(row) else row.value
            if length not in found or cost < found[length].value:
                found[length] = _Cost(cost, row)
    return found


def _crossover(model: ModelKey, softmax: Mapping[float, _Cost], own: Mapping[float, _Cost]) -> Crossover | None:
    """The last crossing after which the model stays cheaper; None if fewer than two lengths are common.

    It is undecided unless its 95 % interval lies between lengths at which the two costs differ significantly.
    """
    lengths = sorted(softmax.keys() & own.keys())
    if len(lengths) < 2:
        return None
    ends = lengths[0], lengths[-1]
    dearer = [length for length in lengths if own[length].value >= softmax[length].value]
    changes = {length: _log_ratio(own[length], softmax[length]) for length in lengths}
    is_exact = not is_timed(own[ends[0]].row.unit)
    decided = [length for length, change in changes.items() if _is_decided(change, is_exact)]
    vague = f"no significant difference at {', '.join(f'{length:g}' for length in lengths if length not in decided)}"
    undecided = Crossover(model, "undecided", None, None, *ends, reason=vague)
    if not dearer:
        return replace(undecided, kind="always") if decided == lengths else undecided
    if dearer[-1] == lengths[-1]:
        return replace(undecided, kind="never") if lengths[-1] in decided else undecided
    before, after = dearer[-1], lengths[lengths.index(dearer[-1]) + 1]
    gaps = [math.log(own[length].value / softmax[length].value) for length in (before, after)]
    share = gaps[0] / (gaps[0] - gaps[1])
    length = before * (after / before) ** share
    value = softmax[before].value * (softmax[after].value / softmax[before].value) ** share
    first, last = changes[before], changes[after]
    if first.stderr is None or last.stderr is None:
        return Crossover(model, "at", length, value, *ends) if is_exact else undecided
    slope = length * math.log(after / before) / (gaps[0] - gaps[1]) ** 2
    stderr = slope * math.hypot(gaps[1] * first.stderr, gaps[0] * last.stderr)
    width = slope * math.hypot(gaps[1] * first.half_width(), gaps[0] * last.half_width())
    low = max((each for each in dearer if each in decided), default=math.nan)
    high = min((each for each in decided if each >= after), default=math.nan)
    if low <= length - width and length + width <= high:
        return Crossover(model, "at", length, value, *ends, stderr)
    return undecided


def _is_decided(change: Change, is_exact: bool) -> bool:
    """Whether two costs differ significantly; of times without an error none do, and counts of bytes need none."""
    return is_exact if change.p_value is None else change.p_value < ALPHA


def _log_ratio(own: _Cost, softmax: _Cost) -> Change:
    """The logarithm of the ratio of two costs, as tables compare them if raw timings were kept.

    Without timings its error is that of the rows; None if one is not known.
    """
    rows = softmax.row, own.row
    if all(row.evidence.timings for row in rows):
        return differences(rows)[0, 1]
    seeds = [row.seeds.count(",") + 1 for row in rows]
    parts = [
        ((row.stderr / row.value) ** 2, count - 1 if count > 1 else math.inf)
        for row, count in zip(rows, seeds, strict=True)
        if row.stderr is not None and row.value
    ]
    stderr = math.sqrt(sum(variance for variance, _ in parts)) if len(parts) == len(rows) else None
    return Change(math.log(own.value / softmax.value), stderr, satterthwaite(parts), "unpaired", 1)


def _undecided(found: Crossover, reason: str) -> Crossover:
    return Crossover(found.model, "undecided", None, None, found.shortest, found.longest, reason=reason)


def _disturbance(points: Iterable[Row]) -> str:
    """Why the times of a sweep are not compared; empty if they are."""
    columns = grouped((row for row in points if row.value is not None), lambda row: row.seq_len).values()
    return next((reason for column in columns for reason in disturbances_of(column) if reason), "")


def _crossover_summary(found: Mapping[_Sweep, Sequence[Crossover]]) -> SweepSummary:
    columns = list(found)
    models = dict.fromkeys(each.model for every in found.values() for each in every)
    by_column = [{each.model: each.text for each in found[column]} for column in columns]
    return SweepSummary(
        f"Cheaper than softmax from {AXIS} (between measured lengths, on logarithmic axes)",
        tuple((metric, rest) for _, metric, rest in columns),
        {model: tuple(texts.get(model, "–") for texts in by_column) for model in models},
    )


def _exponent_summary(rows: Sequence[Row], name: str) -> SweepSummary:
    """Slope and 95 % interval by model; a column for each quantity and range of lengths."""
    found: dict[tuple[str, str], dict[ModelKey, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    disturbed = _disturbed_modes(rows)
    reasons: dict[tuple[tuple[str, str], ModelKey], str] = {}
    for row in rows:
        if row.metric.startswith(name) and row.value is not None and {"of", "over"} <= row.coordinates.keys():
            rest = row.other_coordinates("of", "over")
            column = str(row.coordinates["of"]), f"over {row.coordinates['over']}" + (f", {rest}" if rest else "")
            found[column][row.key][row.metric.removeprefix(name)] = row.value
            reasons[column, row.key] = disturbed.get((row.comparison, row.key, f"{column[0]}_ms"), "")
    columns = sorted(found)
    models = dict.fromkeys(row.key for row in rows if row.metric == name)
    return SweepSummary(
        f"{name.replace('_', ' ').capitalize()}: slope of its logarithm against log {AXIS}, 95 % interval of the fit",
        tuple(columns),
        {
            model: tuple(_interval(found[column].get(model), reasons.get((column, model), "")) for column in columns)
            for model in models
        },
    )


def _disturbed_modes(rows: Sequence[Row]) -> dict[tuple[Conditions, ModelKey, str], str]:
    """Why a mode's times are not compared, for each model, if some point of them is not."""
    timed = (row for row in rows if row.has_seq_len and row.value is not None and row.metric.endswith("_ms"))
    found = {}
    for column in grouped(timed, lambda row: (row.comparison, row.metric, row.at)).values():
        for row, reason in zip(column, disturbances_of(column), strict=True):
            if reason:
                found[row.comparison, row.key, row.metric] = reason
    return found


def _interval(fit: Mapping[str, float] | None, disturbance: str) -> str:
    if fit is None:
        return "–"
    if disturbance:
        return f"{UNDECIDED}: {disturbance}"
    if "_low" not in fit:
        return f"{fit['']:.2f}"
    if math.isnan(fit["_low"]):
        return f"{UNDECIDED}: too few lengths for an interval"
    ends = f"[{fit['_low']:.2f}, {fit['_high']:.2f}]"
    return f"{fit['']:.2f} {ends}" if fit["_high"] - fit["_low"] <= WIDEST else f"{UNDECIDED}: {ends}"
