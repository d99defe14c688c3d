"""Records for other programs: Parquet, evaluation metadata of the Hub (`model-index`), results files of lm-eval."""

from __future__ import annotations

import math
import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..foreign import ForeignJsonError, format_json, parse_json
from ..names import unknown_name
from ..record import Record, from_json, record_text
from ..tables.aggregate import leaderboard_rows
from ..tables.row import format_at
from .lm_eval_export import write_lm_eval

_OF_RECORD = ("run_id", "cell_id", "model", "backbone", "task", "recipe", "scale", "seed", "limit", "peer_key")
_OF_METRIC = ("name", "value", "unit", "higher_is_better", "stderr", "n", "status")


def metric_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row for each metric of each record; a record without metrics has one row without a metric.

    The column `record` is the whole record as JSON.
    """
    rows = []
    for record in records:
        shared = {name: getattr(record, name) for name in _OF_RECORD}
        shared |= {"cell_status": record.status, "record": record_text(record)}
        for metric in record.metrics or (None,):
            own = {f"metric_{name}": getattr(metric, name, None) for name in _OF_METRIC}
            rows.append({**shared, **own, "at": format_at(metric.at) if metric else ""})
    return rows


def write_parquet(records: Iterable[Record], path: Path) -> None:
    """Writes `metric_rows` as Parquet; a column keeps its type even if every value is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"seed": pa.int64(), "limit": pa.int64(), "metric_n": pa.int64(), "metric_higher_is_better": pa.bool_()}
    kinds |= {"metric_value": pa.float64(), "metric_stderr": pa.float64()}
    names = (*_OF_RECORD, "cell_status", *(f"metric_{name}" for name in _OF_METRIC), "at", "record")
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    pq.write_table(pa.Table.from_pylist(metric_rows(records), schema=schema), path)


def read_parquet(path: Path) -> list[Record]:
    """The records that `write_parquet` wrote, in this release or an earlier one.

    Raises:
        ForeignJsonError: The file has no column `record`, or a row of that column is no record.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if "record" not in pq.read_schema(path).names:
            raise ForeignJsonError("it has no column named record")
        texts = pq.read_table(path, columns=["record"]).column("record").to_pylist()
    except pa.ArrowException as error:
        raise ForeignJsonError(f"it is not whole Parquet: {error}") from error
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise ForeignJsonError(f"its column record holds {reprlib.repr(odd[0])}; expected the JSON of a record")
    return [from_json(parse_json(text)) for text in dict.fromkeys(texts)]


def model_index(records: Iterable[Record]) -> dict[str, Any]:
    """The `model-index` of a model card: main metrics that have a finite value, averaged over seeds.

    A model's name includes backbone, recipe, scale and, of several settings, their number: those of different ones are
    never given to one model.
    """
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in leaderboard_rows(list(records)):
        if row.is_main and row.value is not None and math.isfinite(row.value):
            where = row.comparison
            name = f"{row.label} ({where.backbone}, {where.recipe}, {where.scale})"
            point = f" at {row.at}" if row.at else ""
            partial = "" if where.limit is None else f", partial: first {where.limit} rows"
            metric = {"type": row.metric, "name": f"{row.metric}{point}, seeds {row.seeds}{partial}"}
            found[name].append(
                {
                    "task": {"type": "other", "name": where.task},
                    "dataset": {"type": where.data.partition("@")[0] or where.task, "name": where.task},
                    "metrics": [{**metric, "value": row.value, "verified": False}],
                }
            )
    return {"model-index": [{"name": name, "results": results} for name, results in found.items()]}


def write_model_index(records: Iterable[Record], path: Path) -> None:
    """Writes `model_index` as JSON, which is YAML too."""
    path.write_text(format_json(model_index(records), indent=1) + "\n", encoding="utf-8")


EXPORTS: Mapping[str, Callable[[Iterable[Record], Path], None]] = {
    "parquet": write_parquet,
    "model-index": write_model_index,
    "lm-eval": write_lm_eval,
}
"""Writers by format; `lm-eval` writes a folder."""


def export(records: Iterable[Record], format: str, path: Path) -> None:
    """Writes records in one of `EXPORTS`.

    Raises:
        UnknownNameError: The format is unknown.
    """
    if format not in EXPORTS:
        raise unknown_name("format", format, EXPORTS)
    EXPORTS[format](records, path)
