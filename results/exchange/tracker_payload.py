"""What is sent to an experiment tracker, and under which names; the same for all trackers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ..record import CurvePoint, Record, Scalar, record_text

_TABLES = ("leaderboard.csv", "leaderboard.md", "leaderboard.json", "report.html")


def cell_name(record: Record) -> str:
    """Such as `hedgehog / gpt / wikitext2 / seed 0`."""
    return f"{record.model} / {record.backbone} / {record.task} / seed {record.seed}"


def record_json(record: Record) -> str:
    """The whole record, so that a tracker has everything that the run's folder has."""
    return record_text(record, indent=1) + "\n"


def record_digest(record: Record) -> str:
    """Hash of the whole record, 16 hex digits: the same for a record that was sent before."""
    return hashlib.sha256(record_json(record).encode()).hexdigest()[:16]


def parameters(record: Record) -> dict[str, str | int | float | bool]:
    """What was measured and with which settings; lists become texts, and None is left out."""
    data = record.data
    names = ("model", "backbone", "task", "recipe", "scale", "seed", "limit", "status", "main_metric")
    identity: dict[str, Scalar | tuple[Scalar, ...]] = {
        **{name: getattr(record, name) for name in names},
        "data": f"{data.id} {data.revision or data.fingerprint[:12]}" if data else None,
        "kernels": tuple(dict.fromkeys(f"{use.form} ({use.backend})" for use in record.kernels)) or None,
    }
    return _without_none({**identity, **record.settings})


def conditions(record: Record) -> dict[str, str | int | float | bool]:
    """Where it was measured: versions, device, threads, commit."""
    return _without_none({f"environment.{key}": value for key, value in record.environment.items()})


def measurements(record: Record) -> dict[str, float]:
    """Values by name, and standard errors under `NAME_stderr`; a sweep's point follows the name as `/seq_len:512`.

    The times of the cell's phases are included, as `timings_s/train`. Metrics without a value are left out.
    """
    found = {f"timings_s/{phase}": seconds for phase, seconds in record.timings_s.items()}
    for metric in record.metrics:
        point = "".join(f"/{key}:{metric.at[key]}" for key in sorted(metric.at))
        for suffix, value in (("", metric.value), ("_stderr", metric.stderr)):
            if value is not None:
                found[f"{metric.name}{suffix}{point}"] = value
    return found


def curve_name(point: CurvePoint) -> str:
    """Such as `validation/loss`."""
    return f"{point.split}/{point.name}"


def folder_name(record: Record) -> str:
    """A name for the cell's folder that no other cell has."""
    words = (record.task, record.model, record.backbone, record.recipe, record.scale, f"seed{record.seed}")
    return re.sub(r"[^\w.=:,-]+", "_", "-".join((*words, record.cell_id[:8])))


def run_files(folder: Path) -> dict[str, Path]:
    """The tables, report and plots of a run, by their paths below the run's folder."""
    found = [folder / name for name in _TABLES] + sorted((folder / "plots").glob("*.*"))
    return {str(path.relative_to(folder)): path for path in found if path.is_file()}


def _without_none(values: Mapping[str, Scalar | tuple[Scalar, ...]]) -> dict[str, str | int | float | bool]:
    return {
        key: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None
    }
