"""Whether the machine was quiet while a time was measured: its own pace, and the steadiness of repeated calls.

The pace is the time of fixed work (`tasks/measuring/machine.py`). Other programs can only slow a machine down, so the
paces of several cells are compared with the fastest of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from ..record import Record
from .changes import QUALITY_UNITS
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


def _pace(evidence: Evidence) -> dict[str, float]:
    """The median pace of the slowest seed, by kind of work; empty unless every seed has one."""
    every = [paces(record) for record in evidence.records]
    shared = set.intersection(*map(set, every)) if every else set()
    return {work: max(float(np.median(each[work])) for each in every) for work in shared}


def _is_steady(evidence: Evidence) -> bool:
    every = [(times, 20) for times in evidence.timings]
    every += [(times, 50) for record in evidence.records for times in paces(record).values()]
    return all(np.percentile(times, 80) <= STEADY * np.percentile(times, low) for times, low in every)
