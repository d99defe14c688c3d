"""Verdicts on the paper's claims from what was measured.

A claim holds if the whole interval of its contrast lies above the threshold, does not hold if it lies below, and is
undecided otherwise; intervals are adjusted for the number of claims (see `results/stats/claims.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...results.paper.claims import ClaimLine, ClaimNumbers
from ...results.reference.load import Reference
from ...results.stats.claims import Effect, JudgedClaim, MeasuredClaim, ModelSeeds, judge, measure
from ...results.stats.contrasts import UndefinedContrastError
from ...results.stats.evidence import Evidence, paired_seeds
from ...results.tables.row import REFERENCE_MODEL, Row
from .claims import CLAIMS, Claim
from .declarations import Study
from .reported import reported
from .studies import STUDIES

RowsOf: TypeAlias = Callable[[Study, str], Sequence[Row]]
"""Gives the rows of a study on the task of one of its columns; empty if nothing was measured."""

GapOf: TypeAlias = Callable[[Study, str], str]
"""Says why a column of a study, or its students, were not measured; empty if they were."""

FEWEST_MODELS = 5
"""Models from which a rank correlation is judged: with fewer its error is not defined, or says nothing."""


@dataclass(frozen=True)
class Verdict:
    """A claim as a run's records judge it.

    Attributes:
        claim: The claim.
        judged: The verdict with its contrast; None if it cannot be judged.
        note: Why it cannot be judged; or over how many of its tasks it was.
        unit: Unit of the contrast.
        factor: What the contrast is multiplied by to be in `unit`.
    """

    claim: Claim
    judged: JudgedClaim | None
    note: str = ""
    unit: str = ""
    factor: float = 1.0

    @property
    def word(self) -> str:
        """The verdict in words."""
        return self.judged.verdict if self.judged is not None else "not judged"

    @property
    def numbers(self) -> ClaimNumbers | None:
        """What decides it, in `unit`; None if it cannot be judged."""
        if self.judged is None:
            return None
        judged, effect = self.judged, self.judged.effect
        in_metric = (effect.value, effect.stderr, judged.low, judged.high, self.claim.threshold)
        value, stderr, low, high, threshold = (self.factor * number for number in in_metric)
        return ClaimNumbers(
            contrast=effect.contrast,
            value=value,
            stderr=stderr,
            low=low,
            high=high,
            p_value=judged.p_value,
            threshold=threshold,
            unit=self.unit,
            seeds=effect.seeds,
            documents=effect.documents,
        )


@dataclass(frozen=True)
class _Measured:
    """A measured claim, with what its table says of it."""

    claim: MeasuredClaim
    note: str
    unit: str
    factor: float


class _NotMeasuredError(Exception):
    """A claim cannot be judged; the message says why."""


def _no_gap(study: Study, column: str) -> str:  # noqa: ARG001
    """A study of which nothing is known to be missing."""
    return ""


def judge_claims(rows_of: RowsOf, scale: str, gap_of: GapOf = _no_gap) -> list[Verdict]:
    """The verdict on every claim, in the order of `CLAIMS`.

    Args:
        rows_of: Gives what was measured.
        scale: Scale of the run.
        gap_of: Says what is missing, and why. A task with a gap is left out of the claims of several tasks.
    """
    measured: dict[str, _Measured] = {}
    reasons: dict[str, str] = {}
    for claim in CLAIMS.values():
        try:
            measured[claim.id] = _measured(claim, rows_of, gap_of, scale)
        except _NotMeasuredError as error:
            reasons[claim.id] = str(error)
    judged = {each.claim.id: each for each in judge([each.claim for each in measured.values()])}
    return [
        Verdict(claim, judged[id], measured[id].note, measured[id].unit, measured[id].factor)
        if id in judged
        else Verdict(claim, None, reasons[id])
        for id, claim in CLAIMS.items()
    ]


def claim_lines(verdicts: Sequence[Verdict], reference: Reference) -> list[ClaimLine]:
    """The verdicts beside the paper's numbers, as a page or a terminal shows them."""
    return [
        ClaimLine(v.claim.id, v.claim.artefact, v.claim.text, v.word, reported(v.claim, reference), v.numbers, v.note)
        for v in verdicts
    ]


def _measured(claim: Claim, rows_of: RowsOf, gap_of: GapOf, scale: str) -> _Measured:
    """What decides a claim.

    Raises:
        _NotMeasuredError: Something that it needs is missing.
    """
    study = STUDIES[claim.study]
    if scale in study.illustrates:
        raise _NotMeasuredError(f"{study.name} is an illustration")
    if scale not in study.scales:
        raise _NotMeasuredError(study.gaps[scale])
    columns = {column: list(_rows(claim, study, column, rows_of)) for column in study.columns}
    gaps = {column: gap for column in columns if (gap := gap_of(study, column))}
    present = {column: rows for column, rows in columns.items() if rows and column not in gaps}
    if not present:
        raise _NotMeasuredError("; ".join(dict.fromkeys(gaps.values())) or "not measured yet")
    note = "" if len(present) == len(columns) else f"{len(present)} of {len(columns)} tasks"
    example = next(iter(present.values()))[0]
    higher = bool(example.higher_is_better)
    if claim.tracked_by:
        effect = _tracking(claim, next(iter(present.values())), rows_of, higher)
        return _Measured(MeasuredClaim(claim.id, (effect,), claim.threshold), note, "", 1.0)
    assert claim.contrasts is not None
    contrasts = claim.contrasts(higher)
    names = list(dict.fromkeys(name for contrast in contrasts for name in (*contrast.top, *contrast.bottom)))
    tasks = [_seeds_of(names, claim, column, rows, rows_of) for column, rows in present.items()]
    try:
        effects = tuple(measure(contrast, tasks) for contrast in contrasts)
    except (UndefinedContrastError, ValueError) as error:
        raise _NotMeasuredError(str(error)) from error
    unit, factor = ("points", 100.0) if example.unit == "1" and higher else (example.unit.removeprefix("1"), 1.0)
    if any(contrast.bottom for contrast in contrasts):
        unit, factor = "%", 1.0
    return _Measured(MeasuredClaim(claim.id, effects, claim.threshold), note, unit, factor)


def _tracking(claim: Claim, rows: Sequence[Row], rows_of: RowsOf, higher: bool) -> Effect:
    """Fisher's z of the rank correlation, over converted models, of a good score with a low value of another metric.

    Softmax is no conversion: the best score and the least entropy would be its own by definition.
    Its error is that of Bonett and Wright (2000) for n models, which are drawn from no population: it tells how much a
    few models can show.
    """
    from scipy.stats import spearmanr

    assert claim.tracked_by is not None
    study, metric = STUDIES[claim.tracked_by[0]], claim.tracked_by[1]
    values = {
        row.model: row.value
        for column in study.columns
        for row in rows_of(study, column)
        if row.metric == metric and not row.at and row.value is not None and not _is_softmax(row)
    }
    pairs = [(row, values[row.model]) for row in rows if row.model in values and row.value is not None]
    if len(pairs) < FEWEST_MODELS:
        raise _NotMeasuredError(f"{len(pairs)} models have both numbers, {FEWEST_MODELS} are needed")
    scores = np.array([row.value for row, _ in pairs], np.float64) * (1 if higher else -1)
    found: Any = spearmanr(scores, [-value for _, value in pairs])
    correlation = float(found.statistic)
    if math.isnan(correlation):
        raise _NotMeasuredError("all models have the same value")
    z = math.atanh(min(max(correlation, -0.999), 0.999))
    variance = (1 + correlation**2 / 2) / (len(pairs) - 3)
    seeds = min(row.seeds.count(",") + 1 for row, _ in pairs)
    name = f"Fisher's z of rank correlation {correlation:.2f} with -{metric}, {len(pairs)} models"
    return Effect(name, z, 1.0, (variance, 0.0, 0.0), math.inf if seeds > 1 else 0.0, seeds, 0)


def _is_softmax(row: Row) -> bool:
    """Whether a row is of softmax attention, as it was or trained further."""
    return row.model.partition(":")[0] == REFERENCE_MODEL


def _rows(claim: Claim, study: Study, column: str, rows_of: RowsOf) -> Iterator[Row]:
    for row in rows_of(study, column):
        is_asked = row.metric == claim.metric if claim.metric else row.is_main
        is_there = all(str(row.coordinates.get(key)) == value for key, value in claim.at.items())
        if is_asked and is_there and row.value is not None and (claim.at or not row.at):
            yield row


def _seeds_of(
    names: Sequence[str], claim: Claim, column: str, rows: Sequence[Row], rows_of: RowsOf
) -> dict[str, ModelSeeds]:
    """What each model has on the seeds that all share: scores by document if all have them, otherwise values."""
    found: dict[str, Evidence] = {}
    for name in names:
        model, _, other = name.partition("@")
        own = rows if not other else list(_rows(claim, STUDIES[other], column, rows_of))
        matching = [row for row in own if row.model == model]
        if len(matching) != 1:
            raise _NotMeasuredError(f"{name} has {len(matching)} results on {column}")
        found[name] = matching[0].evidence
    return dict(paired_seeds(found))
