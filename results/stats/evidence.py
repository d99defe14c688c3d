"""The measurements behind a number, by seed: its metric in each record, and its score by document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from ..record import Metric, Record
from .scores import SampleScores, sample_scores

Samples: TypeAlias = Callable[[Record], Iterable[Mapping[str, Any]]]
"""Gives a record's predictions."""

Scores: TypeAlias = Callable[[Record, Metric], SampleScores | None]
"""Gives a record's metric document by document; None if no predictions were kept that reproduce it."""


def no_scores(record: Record, metric: Metric) -> None:
    """`Scores` of records without predictions."""


def kept_scores(samples: Samples) -> Scores:
    """The scores of records whose predictions `samples` gives; each is computed once."""
    known: dict[tuple[str, str, str], SampleScores | None] = {}

    def scores(record: Record, metric: Metric) -> SampleScores | None:
        key = record.run_id, record.cell_id, metric.name
        if key not in known:
            known[key] = sample_scores(replace(metric, samples=()), list(samples(record)))
        return known[key]

    return scores


@dataclass(frozen=True)
class Evidence:
    """The measurements behind one model's number.

    Attributes:
        records: One for each seed.
        metrics: The metric in each record.
        find: Gives the scores document by document.
    """

    records: tuple[Record, ...]
    metrics: tuple[Metric, ...]
    find: Scores = no_scores

    @cached_property
    def scores(self) -> tuple[SampleScores, ...]:
        """Each seed's score document by document, all over the same documents; empty unless every seed has one."""
        found = [
            None if metric.at else self.find(record, metric)
            for record, metric in zip(self.records, self.metrics, strict=True)
        ]
        scores = tuple(score for score in found if score is not None)
        is_whole = 0 < len(scores) == len(found) and len({score.labels for score in scores}) == 1
        return scores if is_whole and len(scores[0].labels) > 1 else ()

    @property
    def timings(self) -> tuple[tuple[float, ...], ...]:
        """Each seed's raw repeated measurements; empty unless every seed has two or more above zero."""
        every = tuple(metric.samples for metric in self.metrics)
        return every if every and all(len(one) > 1 and min(one) > 0 for one in every) else ()

    @property
    def values(self) -> dict[int, float]:
        """The metric by seed, where it was measured."""
        pairs = zip(self.records, self.metrics, strict=True)
        return {record.seed: metric.value for record, metric in pairs if metric.value is not None}

    def of_seeds(self, seeds: Collection[int]) -> Evidence:
        """The evidence of some seeds, in their order."""
        where = {record.seed: i for i, record in enumerate(self.records)}
        chosen = [where[seed] for seed in seeds]
        return replace(
            self, records=tuple(self.records[i] for i in chosen), metrics=tuple(self.metrics[i] for i in chosen)
        )


NO_EVIDENCE = Evidence((), ())


def paired_seeds(models: Mapping[str, Evidence]) -> dict[str, tuple[SampleScores, ...] | tuple[float, ...]]:
    """What models have on the seeds that all of them were measured with, in one order.

    Scores document by document if all models have them over the same documents, otherwise values alone; nothing if no
    seed is shared.
    """
    seeds = sorted(set.intersection(*(set(evidence.values) for evidence in models.values()))) if models else []
    shared = {model: evidence.of_seeds(seeds) for model, evidence in models.items()}
    labels = {evidence.scores[0].labels if evidence.scores else () for evidence in shared.values()}
    if len(labels) == 1 and () not in labels:
        return {model: evidence.scores for model, evidence in shared.items()}
    return {model: tuple(evidence.values.values()) for model, evidence in shared.items()}
