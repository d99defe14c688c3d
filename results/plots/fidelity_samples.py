"""Each model's attention beside softmax's, by layer and for a few heads, from predictions of `attention_fidelity`.

A cell has rows of two kinds: measures of one layer and head over one window of text, and the weights of one head over
the first tokens of the test text, with a list for each query over the keys that it sees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..record import Record
from ..stats.evidence import Samples
from ..stats.statistics import Floats
from ..tables.aggregate import SeedGroup, group_seeds
from ..tables.row import REFERENCE_MODEL, Conditions, grouped

SampleRow: TypeAlias = Mapping[str, Any]

LAYER_MEASURES = ("kl", "entropy", "softmax_entropy", "monotonicity", "overlap")
TEACHER_MEASURES = ("kl_from_teacher", "teacher_entropy")
"""Further measures of models that were converted from a softmax model."""

_MARK = "attention_monotonicity_at"
"""A metric of this task alone, which every measured cell of it has."""

_Place: TypeAlias = tuple[str, int]
"""Corpus and tokens."""


@dataclass(frozen=True)
class HeadSample:
    """One head's attention over a short text, each array `[queries keys]`: NaN at keys that a query does not see.

    Attributes:
        layer: Its layer.
        head: Its place in the layer.
        weights: Attention weights.
        softmax: Those of softmax over the same queries and keys.
        products: q·k times softmax's scale.
    """

    layer: int
    head: int
    weights: Floats
    softmax: Floats
    products: Floats


@dataclass(frozen=True)
class Fidelity:
    """One model's attention beside softmax's.

    Attributes:
        model: Canonical model spec.
        label: The model's name in plots.
        place: Corpus and tokens that `layers` was measured on, the same for all models of a comparison.
        layers: Each of `LAYER_MEASURES`, and of `TEACHER_MEASURES` where there is a teacher, by layer, `[layers]`: mean
            over heads, windows and seeds. Empty where the model was not measured at that place.
        heads: Samples of the first seed.
    """

    model: str
    label: str
    place: _Place
    layers: Mapping[str, Floats]
    heads: tuple[HeadSample, ...]


def fidelities(records: Iterable[Record], samples: Samples) -> dict[Conditions, list[Fidelity]]:
    """The models of each comparison whose attention was measured by layer, in a fixed order, softmax first.

    Layers of a comparison are all of one corpus and length: the first one, which the models were distilled on, unless
    more of them could be measured at another.

    Args:
        records: Records of one or several runs.
        samples: Gives a record's predictions; called only for records with metrics of this kind.
    """
    found: dict[Conditions, list[tuple[SeedGroup, list[list[SampleRow]]]]] = defaultdict(list)
    for cells in group_seeds(records):
        measured = [r for r in cells.records if r.status == "ok" and any(m.name == _MARK for m in r.metrics)]
        rows = [list(samples(record)) for record in measured]
        if any(row.get("status") == "ok" for kept in rows for row in kept):
            found[cells.comparison].append((cells, rows))
    return {comparison: _comparable(found[comparison]) for comparison in sorted(found, key=repr)}


def spikiest_heads(models: Sequence[Fidelity]) -> list[tuple[int, int]]:
    """For each sampled layer, the head of least softmax entropy in the first model: feature maps fail there first."""
    best: dict[int, tuple[float, int]] = {}
    for sample in models[0].heads:
        p = np.nan_to_num(sample.softmax)
        entropy = float(-(p * np.log(np.maximum(p, 1e-12))).sum(-1).mean())
        best[sample.layer] = min(best.get(sample.layer, (np.inf, 0)), (entropy, sample.head))
    return [(layer, head) for layer, (_, head) in sorted(best.items())]


def _comparable(models: Sequence[tuple[SeedGroup, Sequence[Sequence[SampleRow]]]]) -> list[Fidelity]:
    """The models at the first place at which most of them were measured; softmax comes first."""
    measured = [_by_place(row for kept in rows for row in kept if "status" in row) for _, rows in models]
    places = dict.fromkeys(place for by_place in measured for place in by_place)
    place = max(places, key=lambda place: sum(bool(by_place.get(place)) for by_place in measured))
    found = [
        Fidelity(
            model=cells.model,
            label=cells.label,
            place=place,
            layers=_layers(by_place.get(place, [])),
            heads=tuple(_head(row) for row in next(kept for kept in rows if kept) if "weights" in row),
        )
        for (cells, rows), by_place in zip(models, measured, strict=True)
    ]
    return sorted(found, key=lambda fidelity: fidelity.model != REFERENCE_MODEL)


def _by_place(rows: Iterable[SampleRow]) -> dict[_Place, list[SampleRow]]:
    """The measured rows of each place; none for a place at which measuring failed."""
    places = grouped(rows, lambda row: (row["corpus"], row["seq_len"]))
    return {place: [row for row in found if row["status"] == "ok"] for place, found in places.items()}


def _layers(rows: Sequence[SampleRow]) -> dict[str, Floats]:
    names = (name for name in (*LAYER_MEASURES, *TEACHER_MEASURES) if rows and all(name in row for row in rows))
    return {name: _by_layer(rows, name) for name in names}


def _by_layer(rows: Sequence[SampleRow], name: str) -> Floats:
    layers = grouped(rows, lambda row: int(row["layer"]))
    return np.array([np.mean([float(row[name]) for row in layers[layer]]) for layer in sorted(layers)], np.float64)


def _head(row: SampleRow) -> HeadSample:
    return HeadSample(row["layer"], row["head"], *(_square(row[name]) for name in ("weights", "softmax", "products")))


def _square(rows: Sequence[Sequence[float]]) -> Floats:
    """Lists over the keys that each query sees, which are its first ones, as an array with NaN for the others."""
    square = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        square[i, : len(row)] = [float(value) for value in row]
    return square
