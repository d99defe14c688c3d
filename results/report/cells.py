"""The data behind the report's list of cells, packed: equal parts are stored once, and everything is compressed.

The page unpacks the data when it is opened. To keep it small for any number of cells, numbers have six digits and
curves at most a hundred points; the page says what else is left out.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from ..record import PART_MARK, TRAINING_SPLIT, CurvePoint, DataIdentity, KernelUse, Metric, Record
from ..tables.format import format_with_error
from ..tables.row import format_at, grouped

MAX_PACKED_BYTES = 500_000
"""Largest size of all packed parts together. Curves are left out if they do not fit, and so are predictions."""

MOST_POINTS = 100
MOST_SAMPLES = 5
MOST_LETTERS = 400

PackedCells: TypeAlias = tuple[dict[str, str], list[str]]
"""The parts of the page's data, each as base64 of gzipped JSON, and the names of the parts left out for size.

The part `cells` is always there; the page unpacks the parts `curves` and `samples` when a cell is opened.
"""

Samples: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]


def pack_cells(records: Sequence[Record], samples: Samples, limit: int = MAX_PACKED_BYTES) -> PackedCells:
    """The records for the page.

    Args:
        records: Records in the order in which they are listed.
        samples: The first predictions of each cell, by the cell's id.
        limit: Most bytes; curves and predictions are left out to stay below it, but never a cell.
    """
    shared = _Shared()
    cells = [_cell(record, shared) for record in records]
    parts = {"cells": _pack({"cells": cells, "shared": shared.values})}
    left_out = []
    curves = {record.cell_id: found for record in records if (found := _curves(record.curves))}
    predictions = {record.cell_id: rows for record in records if (rows := samples.get(record.cell_id))}
    for name, words, values in (("curves", "training curves", curves), ("samples", "predictions", predictions)):
        packed = _pack(values)
        if sum(map(len, parts.values())) + len(packed) <= limit:
            parts[name] = packed
        elif values:
            left_out.append(words)
    return parts, left_out


def preview(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The first predictions of a cell as text; long values are cut, and end in an ellipsis."""
    return [{str(key): _cut(value) for key, value in row.items()} for row in itertools.islice(rows, MOST_SAMPLES)]


def _pack(value: Any) -> str:
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(plain.encode(), compresslevel=6, mtime=0)).decode()


class _Shared:
    """Values that many cells have in common, each kept once.

    Attributes:
        values: The values, in the order in which they were first seen.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, kind: str, raw: Any, plain: Callable[[Any], Any]) -> int:
        """Index in `values` of the plain form of a value."""
        key = f"{kind} {raw!r}"
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(plain(raw))
        return self._places[key]


def _cell(record: Record, shared: _Shared) -> dict[str, Any]:
    names = ("model", "backbone", "task", "recipe", "scale", "seed", "status", "limit")
    cell = {name: getattr(record, name) for name in names} | {"id": record.cell_id, "run": record.run_id}
    main = record.main()
    return cell | {
        "main": record.main_metric,
        "value": None if main is None else _short(main.value),
        "shown": "–" if main is None else format_with_error(main.value, main.stderr, main.unit),
        "metrics": [_metric(metric) for metric in record.metrics],
        **{name: shared.place(name, getattr(record, name), plain) for name, plain in _SHARED.items()},
        "timings": {phase: _short(seconds, 3) for phase, seconds in record.timings_s.items()},
        "notes": list(record.notes),
        "error": asdict(record.error) if record.error else None,
    }


def _metric(metric: Metric) -> list[Any]:
    shown = (_short(metric.value), _short(metric.stderr), metric.n, metric.unit, metric.higher_is_better)
    return [metric.name, format_at(metric.at), *shown, metric.status]


def _kernels(kernels: Iterable[KernelUse]) -> list[list[str]]:
    return [[use.phase, f"{use.form} ({use.backend})"] for use in kernels]


def _data(data: DataIdentity | None) -> list[list[str]]:
    """Which data was read, as name and value."""
    if data is None:
        return []
    facts = [("id", data.id), ("revision", data.revision), ("fingerprint", data.fingerprint), ("from", data.source)]
    facts += [(f"rows of {split}", str(rows)) for split, rows in data.splits.items()]
    facts += [(key, str(value)) for key, value in data.details.items()]
    return [[name, value] for name, value in facts if value]


def _curves(points: Iterable[CurvePoint]) -> list[list[Any]]:
    """Name, split, steps, values and how many steps one shown point stands for, of each curve of a whole model."""
    lines = grouped((point for point in points if PART_MARK not in point.name), lambda point: (point.name, point.split))
    curves = []
    for (name, split), line in sorted(lines.items(), key=lambda item: item[0][1] != TRAINING_SPLIT):
        every = math.ceil(len(line) / MOST_POINTS)
        shown = sorted(line, key=lambda point: point.step)[::-1][::every][::-1]
        curves.append([name, split, [p.step for p in shown], [_short(p.value) for p in shown], every])
    return curves


def _short(value: float | None, digits: int = 6) -> float | int | str | None:
    """A number with few digits, an integer if it is whole, a string if it is not finite."""
    if value is None:
        return None
    if value.is_integer():
        return int(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else str(value)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings or an environment as values that JSON has."""
    return {name: _spelled(value) for name, value in values.items()}


def _spelled(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_SHARED: dict[str, Callable[[Any], Any]] = {"settings": _flat, "environment": _flat, "data": _data, "kernels": _kernels}
"""Parts of a record that many cells have in common, and their plain forms."""


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
