"""From records to the leaderboard's rows: averages seeds, keeps failures, and compares scores with softmax's."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..record import Metric, Record, Scalar
from ..stats.budget import Budgets, budgets_of
from ..stats.chance import is_signed
from ..stats.evidence import Evidence, Scores, no_scores
from ..stats.statistics import seed_mean
from ..store import record_order
from .row import CONTENDER, PARTIAL, REFERENCE_MODEL, Conditions, Row, format_at, grouped, model_label, softmax_first

_Variant: TypeAlias = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class SeedGroup:
    """Records that differ in nothing but the seed."""

    model: str
    comparison: Conditions
    variant: int
    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """The model's name in tables and legends."""
        return model_label(self.model, self.variant)


def leaderboard_rows(records: Iterable[Record], scores: Scores = no_scores) -> list[Row]:
    """The leaderboard's rows, in a fixed order.

    Cells are averaged over seeds only if they differ in nothing else: another scale, recipe, limit, data, peer key or
    setting gives another row, and so does a second record of the same seed. A seed that failed has a row of its own.

    Args:
        records: What was measured.
        scores: Gives the records' metrics document by document, for comparisons over the same documents.
    """
    return rows_of_groups(group_seeds(records), scores)


def rows_of_groups(groups: Iterable[SeedGroup], scores: Scores = no_scores) -> list[Row]:
    """`leaderboard_rows`, from records that `group_seeds` has grouped."""
    rows = [row for cells in groups for row in _rows_of(cells, scores)]
    rows.sort(key=_row_order)
    return list(_with_percent_recovered(rows))


def main_rows(rows: Iterable[Row]) -> dict[Conditions, list[Row]]:
    """Rows of the main metrics that are one number per model, failed cells included; sweeps are left out."""
    found = grouped((row for row in rows if row.is_main), lambda row: row.comparison)
    return {where: own for where, own in found.items() if len({row.at for row in own if not row.is_failed_cell}) <= 1}


def main_budgets(rows: Iterable[Row]) -> dict[Conditions, Budgets]:
    """What trainings were given, for each task on which two models or more were trained and have their main metric."""
    models = {
        where: {row.label: row.evidence.records for row in own if row.value is not None}
        for where, own in main_rows(rows).items()
    }
    found = {where: budgets_of(own) for where, own in models.items() if len(own) > 1}
    return {where: budgets for where, budgets in found.items() if budgets is not None}


def merge_runs(runs: Sequence[tuple[str, Iterable[Record]]]) -> tuple[list[Record], list[str]]:
    """Records of several runs as one list.

    Args:
        runs: Name and records of each run, oldest first.

    Returns:
        The records, one for each cell, from the newest run that has it; and a message for each record that was left
        out.
    """
    kept: dict[str, tuple[str, Record]] = {}
    messages = []
    for run_id, records in runs:
        for record in records:
            if record.cell_id in kept:
                messages.append(
                    f"cell {record.cell_id} ({record.model} on {record.task}, seed {record.seed}) is in "
                    f"{kept[record.cell_id][0]} and {run_id}; {run_id} is shown"
                )
            kept[record.cell_id] = (run_id, record)
    return [record for _, record in kept.values()], messages


def is_comparable(row: Row, other: Row) -> bool:
    """Whether two rows were measured under the same conditions; peer keys count if both rows have one."""
    are_peers = not row.peer_key or not other.peer_key or row.peer_key == other.peer_key
    return row.comparison == other.comparison and are_peers


def reference_of(row: Row, candidates: Iterable[Row]) -> Row | None:
    """The one softmax row that a row may be compared with, itself for softmax; None if there is none, or several."""
    if row.model == REFERENCE_MODEL:
        return row
    point = row.metric, row.at
    matching = [other for other in candidates if (other.metric, other.at) == point and is_comparable(row, other)]
    return matching[0] if len(matching) == 1 else None


def percent_of(value: float, reference: float, higher_is_better: bool | None) -> float | None:
    """Score in percent of a reference score, above 100 if it is better.

    None for a metric without a direction, and if a score is not positive or not finite.
    """
    if higher_is_better is None or not (0 < value < float("inf")) or not (0 < reference < float("inf")):
        return None
    return 100 * (value / reference if higher_is_better else reference / value)


def group_seeds(records: Iterable[Record]) -> list[SeedGroup]:
    """The records in groups that differ in nothing but the seed."""
    groups: dict[tuple[str, Conditions], dict[tuple[_Variant, int], list[Record]]] = defaultdict(dict)
    repeats: Counter[tuple[str, Conditions, _Variant, int]] = Counter()
    records = sorted(records, key=record_order)
    read = grouped((record for record in records if record.data), lambda record: (record.task, record.scale))
    known = {where: {_data_key(record) for record in peers} for where, peers in read.items()}
    for record in records:
        comparison = _comparison(record, known)
        conditions = record.peer_key, tuple(sorted(record.settings.items()))
        seen = (record.model, comparison, conditions, record.seed)
        groups[record.model, comparison].setdefault((conditions, repeats[seen]), []).append(record)
        repeats[seen] += 1
    return [
        SeedGroup(model, comparison, variant, tuple(sorted(variants[key], key=lambda record: record.seed)))
        for (model, comparison), variants in groups.items()
        for variant, key in enumerate(sorted(variants, key=repr) if len(variants) > 1 else variants)
    ]


def _comparison(record: Record, known: Mapping[tuple[str, str], set[str]]) -> Conditions:
    """The conditions of a record; a cell without data counts as having read its peers' data if these all agree."""
    data = _data_key(record)
    if not data and len(peers := known.get((record.task, record.scale), set())) == 1:
        data = next(iter(peers))
    return Conditions(record.backbone, record.task, record.recipe, record.scale, record.limit, data)


def _data_key(record: Record) -> str:
    data = record.data
    return "@".join(filter(None, (data.id, data.revision, data.fingerprint))) if data else ""


def _rows_of(cells: SeedGroup, scores: Scores) -> Iterable[Row]:
    metrics = ((record, metric) for record in cells.records for metric in record.metrics)
    points = grouped(metrics, lambda pair: (pair[1].name, format_at(pair[1].at), pair[1].status))
    yield from (_metric_row(cells, measured, scores) for measured in points.values())
    failed = grouped((record for record in cells.records if record.status != "ok"), lambda record: record.status)
    for status, missing in failed.items():
        if not any(m.name == r.main_metric and m.status == status for r in missing for m in r.metrics):
            yield replace(_empty_row(cells, missing, missing[0].main_metric, status), is_failed_cell=True)


def _metric_row(cells: SeedGroup, measured: Sequence[tuple[Record, Metric]], scores: Scores) -> Row:
    first = measured[0][1]
    values = [metric.value for _, metric in measured if metric.value is not None]
    mean, over_seeds = seed_mean(values) if values else (None, None)
    status: str = first.status
    if status == "ok" and cells.comparison.limit is not None:
        status = PARTIAL
    coordinates = {key: value for key, value in first.at.items() if key != CONTENDER}
    return replace(
        _empty_row(cells, [record for record, _ in measured], first.name, status),
        model=str(first.at.get(CONTENDER, cells.model)),
        at=format_at(coordinates),
        value=mean,
        stderr=first.stderr if len(measured) == 1 else over_seeds,
        n=min(metric.n for _, metric in measured),
        unit=first.unit,
        higher_is_better=first.higher_is_better,
        coordinates=coordinates,
        evidence=Evidence(tuple(r for r, _ in measured), tuple(m for _, m in measured), scores),
    )


def _empty_row(cells: SeedGroup, records: Sequence[Record], metric: str, status: str) -> Row:
    """A row of a metric without a value, for some records of a group."""
    return Row(
        cells.model,
        cells.comparison,
        metric,
        seeds=",".join(str(record.seed) for record in records),
        status=status,
        is_main=metric == records[0].main_metric,
        variant=cells.variant,
        peer_key=records[0].peer_key,
    )


def _with_percent_recovered(rows: Sequence[Row]) -> Iterator[Row]:
    softmax = (row for row in rows if row.model == REFERENCE_MODEL and row.value is not None)
    references = grouped(softmax, lambda row: (row.comparison, row.metric, row.at))
    for row in rows:
        reference = reference_of(row, references.get((row.comparison, row.metric, row.at), ()))
        if reference is not None and row.value is not None and reference.value is not None:
            row = _beside_softmax(row, row.value, reference.value)
        yield row


def _beside_softmax(row: Row, value: float, reference: float) -> Row:
    """The row with its score in percent of softmax's, or with its cost as a factor."""
    if row.is_quality:
        return (
            row
            if is_signed(row.metric)
            else replace(row, percent_recovered=percent_of(value, reference, row.higher_is_better))
        )
    is_ratio = row.higher_is_better is not None and 0 < value < math.inf and 0 < reference < math.inf
    return replace(row, factor=value / reference) if is_ratio else row


def _row_order(row: Row) -> tuple[Any, ...]:
    """Tasks together, softmax first among the models, points of a sweep by number."""
    where = row.comparison
    limit = -1 if where.limit is None else where.limit
    point = tuple((key, *_sort_key(row.coordinates[key])) for key in sorted(row.coordinates))
    return (
        (where.backbone, where.recipe, where.scale, limit, where.task, where.data),
        (not row.is_main, row.metric, point),
        (*softmax_first(row.key), row.status, row.seeds),
    )


def _sort_key(value: Scalar) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(value)
