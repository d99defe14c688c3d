"""Divergence of each head from softmax attention, before and after distillation, from the curves of records.

A conversion writes points named `attention_kl/layer L/head H`, measured on its validation rows: at step 0, when the
mechanism is swapped in, and at the last step of distillation. Mechanisms that are not distilled have step 0 alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..record import Record
from ..stats.statistics import Floats
from ..tables.aggregate import group_seeds
from ..tables.row import Conditions

_HEAD = re.compile(r"attention_kl/layer (\d+)/head (\d+)")


@dataclass(frozen=True)
class HeadDivergence:
    """One model's divergence from softmax attention in nats, mean over seeds, by layer and head.

    Arrays are `[layers heads]`: NaN where nothing was measured, infinite where a seed's value was not finite.

    Attributes:
        label: The model's name in plots.
        before: Divergence after the swap, before distillation; None if it was not measured.
        after: Divergence after distillation; None if the model was not distilled.
    """

    label: str
    before: Floats | None
    after: Floats | None


def head_divergences(records: Iterable[Record]) -> dict[Conditions, list[HeadDivergence]]:
    """The models of each comparison that have points by layer and head, in a fixed order."""
    found: dict[Conditions, list[HeadDivergence]] = defaultdict(list)
    for cells in group_seeds(records):
        before, after = _states(cells.records)
        if before is not None or after is not None:
            found[cells.comparison].append(HeadDivergence(cells.label, before, after))
    return {comparison: found[comparison] for comparison in sorted(found, key=repr)}


def by_layer(state: Floats) -> Floats:
    """Mean over the measured heads, `[layers]`: NaN for a layer without any, infinite if a head is."""
    measured = ~np.isnan(state)
    totals = np.where(measured, state, 0.0).sum(axis=1)
    return np.where(measured.any(axis=1), totals / np.maximum(measured.sum(axis=1), 1), np.nan)


def spread_of_heads(state: Floats) -> tuple[Floats, Floats]:
    """The lowest and the highest head of each layer, `[layers]` each; NaN if a head is infinite or missing."""
    unusable = ~np.isfinite(by_layer(state))
    low = np.where(np.isnan(state), np.inf, state).min(axis=1)
    high = np.where(np.isnan(state), -np.inf, state).max(axis=1)
    return np.where(unusable, np.nan, low), np.where(unusable, np.nan, high)


def _states(records: Sequence[Record]) -> tuple[Floats | None, Floats | None]:
    """Before and after; each seed ends at a step of its own, as distillation may stop early."""
    before: list[Mapping[tuple[int, int], float]] = []
    after: list[Mapping[tuple[int, int], float]] = []
    for record in records:
        steps: dict[int, dict[tuple[int, int], float]] = defaultdict(dict)
        for point in record.curves:
            if point.split == "validation" and (match := _HEAD.fullmatch(point.name)):
                steps[point.step][int(match[1]), int(match[2])] = point.value
        if 0 in steps:
            before.append(steps[0])
        if steps and max(steps) > 0:
            after.append(steps[max(steps)])
    return _mean_over_seeds(before), _mean_over_seeds(after)


def _mean_over_seeds(seeds: Sequence[Mapping[tuple[int, int], float]]) -> Floats | None:
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    for seed in seeds:
        for place, value in seed.items():
            values[place].append(value)
    if not values:
        return None
    mean = np.full((1 + max(layer for layer, _ in values), 1 + max(head for _, head in values)), np.nan)
    for place, taken in values.items():
        mean[place] = np.mean(taken) if np.isfinite(taken).all() else np.inf
    return mean
