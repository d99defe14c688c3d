"""Whether the machine was quiet while a time was measured: its own pace, and the steadiness of repeated calls.

The pace is the time of fixed work (`tasks/measuring/machine.py`). Other programs can only slow a machine down, so the
fastest of several cells is the measure of the others.

Both limits stand between what quiet and busy machines were measured to do (`docs/measurements.md`, on two cores):

- `EQUAL_PACE`: the median paces of four cells at rest were within 1.08 of each other. Where a pace rests on two points
  of 7 samples, whose medians spread by 6 %, 97 % of pairs at rest are within 1.2; with six points all are. Beside other
  work the paces of 40 processes differed by a factor of 4 to 50, and 99 % of their pairs are refused.
- `STEADY`: at rest the 80th percentile of a call's times was 1.06 times the 20th (median of 156 calls; one passed 1.5).
  A call that shares its processor with one other thread takes twice as long. 1.5 is the middle between 1.06 and 2 on a
  logarithmic scale, and refuses 86 % of cells of which a fifth of the calls are disturbed, 99 % at three tenths.

A machine slower by less than `EQUAL_PACE` would still make equal models differ significantly, so `beyond_pace` takes
off a difference of times what the two paces explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ..record import Record
from .changes import QUALITY_UNITS, Change
from .evidence import Evidence

PACE_METRIC = "pace_ms"
EQUAL_PACE = 1.2
"""Largest ratio of two cells' median times of the same fixed work."""
STEADY = 1.5
"""Largest ratio of the 80th to the 20th percentile of one call's times, and of the 80th percentile to the median of the
pace: the first pace of a process may be faster, as its threads are few."""

NOT_QUIET, NO_PACE = "machine was not quiet", "pace not measured"

Paces: TypeAlias = Mapping[str, tuple[float, ...]]
"""Times of each kind of fixed work."""


def is_timed(unit: str) -> bool:
    """Whether numbers of this unit depend on how busy the machine was; counts of bytes do not."""
    return unit not in QUALITY_UNITS and unit != "bytes"


def paces(record: Record) -> Paces:
    """The machine's pace during a cell, by kind of work; empty if it was not measured."""
    return {
        str(metric.at.get("work", "")): metric.samples
        for metric in record.metrics
        if metric.name == PACE_METRIC and len(metric.samples) > 1
    }


def disturbances(measured: Sequence[Evidence]) -> list[str]:
    """Why times must not be compared: a reason for each time, empty if it may be.

    A time is left out if its calls or its cell's pace are not steady, if the pace takes more than `EQUAL_PACE` times as
    long as the fastest one, or if the pace is not known. Times of one cell need no pace.
    """
    cells = {record.cell_id for evidence in measured for record in evidence.records}
    pace = [_pace(evidence) for evidence in measured]
    fastest = {work: min(each[work] for each in pace if work in each) for work in set().union(*pace)}
    found = []
    for evidence, own in zip(measured, pace, strict=True):
        is_slow = len(cells) > 1 and any(own[work] > EQUAL_PACE * fastest[work] for work in own)
        if is_slow or not _is_steady(evidence):
            found.append(NOT_QUIET)
        else:
            found.append(NO_PACE if len(cells) > 1 and not own else "")
    return found


def beyond_pace(change: Change, baseline: Evidence, candidate: Evidence) -> Change:
    """A change of times without what the machine's paces explain: its distance from the range of their own changes.

    The range holds no change and that of each kind of work; times of one cell share a pace and keep their change.
    """
    before, after = _pace(baseline), _pace(candidate)
    explained = [0.0, *(math.log(after[work] / before[work]) for work in before.keys() & after.keys())]
    return replace(change, worse=change.worse - min(max(change.worse, min(explained)), max(explained)))


def _pace(evidence: Evidence) -> dict[str, float]:
    """The median pace of the slowest seed, by kind of work; empty unless every seed has one."""
    every = [paces(record) for record in evidence.records]
    shared = set.intersection(*map(set, every)) if every else set()
    return {work: max(float(np.median(each[work])) for each in every) for work in shared}


def _is_steady(evidence: Evidence) -> bool:
    every = [(times, 20) for times in evidence.timings]
    every += [(times, 50) for record in evidence.records for times in paces(record).values()]
    return all(np.percentile(times, 80) <= STEADY * np.percentile(times, low) for times, low in every)
