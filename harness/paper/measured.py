"""What a run measured of the paper's studies: their records and rows, and the reasons for what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from ...results.foreign import convert, parse_json
from ...results.record import Record
from ...results.stats.evidence import Scores, kept_scores
from ...results.store import RunStore
from ...results.tables.aggregate import leaderboard_rows
from ...results.tables.row import Row
from ..settings import parse_value
from ..task_spec import parse_task_spec
from .declarations import Study
from .studies import STUDIES

GAPS = "gaps.json"
"""File of a run with the reasons why tasks of a study could not run."""

Gaps: TypeAlias = Mapping[str, Mapping[str, str]]
"""Reasons by study and task."""


@dataclass(frozen=True)
class MeasuredStudies:
    """A run at one scale.

    Attributes:
        store: The run's folder.
        scale: The scale.
        records: All records of the run.
        gaps: Why tasks of studies could not run.
        known_rows: Rows by study, as far as they were computed.
    """

    store: RunStore
    scale: str
    records: tuple[Record, ...]
    gaps: Gaps
    known_rows: dict[str, list[Row]] = field(default_factory=dict)

    @cached_property
    def scores(self) -> Scores:
        """Each record's metrics document by document, computed once."""
        return kept_scores(lambda record: self.store.kept_samples(record.cell_id))

    def of(self, study: Study) -> list[Record]:
        """The records of a study: its tasks, models, backbone, recipe and settings at this scale, with all of the data.

        Studies may share cells. Where two give one task other settings, each has its own.
        """
        if self.scale not in study.scales:
            return []
        at = study.scales[self.scale]
        tasks = {canonical_task(task) for task in at.tasks}
        return [
            r
            for r in self.records
            if r.scale == self.scale
            and r.limit is None
            and r.task in tasks
            and r.model in study.models_at(self.scale)
            and at.backbone in (None, r.backbone)
            and study.recipe in (None, r.recipe)
            and self._has_settings(r, study)
        ]

    def _has_settings(self, record: Record, study: Study) -> bool:
        """Whether a record has a study's settings, and none that another study alone gives the same task."""
        own = study.scales[self.scale].settings
        given = (
            other.scales[self.scale].settings
            for other in STUDIES.values()
            if self.scale in other.scales
            and other.recipe == study.recipe
            and record.task in map(canonical_task, other.scales[self.scale].tasks)
        )
        others = {(key, text) for settings in given for key, text in settings.items() if key not in own}
        stated = {key for key in own if key in record.settings}
        return all(_is_set(record, key, own[key]) for key in stated) and not any(
            _is_set(record, key, text) for key, text in others if key in record.settings
        )

    def rows_on(self, study: Study, column: str) -> list[Row]:
        """The rows of a study on the task of one of its columns."""
        return [row for row in self.rows(study) if row.comparison.task == _task(study, column, self.scale)]

    def rows(self, study: Study) -> list[Row]:
        """The leaderboard's rows of a study, computed once."""
        if study.name not in self.known_rows:
            self.known_rows[study.name] = leaderboard_rows(self.of(study), self.scores)
        return self.known_rows[study.name]

    def gap(self, study: Study, column: str) -> str:
        """Why a column of a study, or its students, have no record; empty if they have."""
        if self.scale not in study.scales:
            return study.gaps[self.scale]
        task = _task(study, column, self.scale)
        missing = "" if any(record.task == task for record in self.of(study)) else "it has not run yet"
        return self.gaps.get(study.name, {}).get(task, missing)


def read_studies(store: RunStore, scale: str) -> MeasuredStudies:
    """What a run's folder holds of the studies at a scale."""
    return MeasuredStudies(store, scale, tuple(store.records().records), read_gaps(store))


def read_gaps(store: RunStore) -> Gaps:
    """Why tasks of studies could not run, as the last run of each study wrote it."""
    path = store.root / GAPS
    return convert(parse_json(path.read_bytes()), dict[str, dict[str, str]], GAPS) if path.is_file() else {}


def write_gaps(store: RunStore, gaps: Gaps) -> None:
    """Adds the gaps of studies to those that earlier runs wrote."""
    store.write_text(store.root / GAPS, json.dumps({**read_gaps(store), **gaps}, indent=1, sort_keys=True) + "\n")


def canonical_task(text: str) -> str:
    """A task as records name it."""
    spec = parse_task_spec(text)
    return spec.canonical(spec.name)


def _is_set(record: Record, key: str, text: str) -> bool:
    """Whether a record has a setting, whose value is written as `--set` takes it."""
    value: Any = record.settings[key]
    return bool(parse_value(key, text, value) == value)


def _task(study: Study, column: str, scale: str) -> str:
    return canonical_task(study.tasks_at(scale)[column]) if scale in study.scales else ""
