"""`bench compare` and `bench baseline`: read runs, compare them, and write the outcome where CI looks for it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from ...results.compare.baseline import write_baseline
from ...results.compare.snapshot import read_snapshot
from ...results.compare.text import RENDERERS, comparison_junit, comparison_markdown
from ...results.compare.verdicts import Comparison, compare
from ...results.names import UsageError


def parse_tolerances(texts: Sequence[str]) -> dict[str, float]:
    """Tolerances in percent by metric, from texts METRIC=PERCENT.

    Raises:
        UsageError: A text has another form, or its percentage is not a finite number from 0.
    """
    tolerances = {}
    for text in texts:
        name, _, percent = text.partition("=")
        try:
            value = float(percent.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not name or not value >= 0 or math.isinf(value):
            raise UsageError(f"tolerance {text!r} is not METRIC=PERCENT with a percentage of 0 or more")
        tolerances[name] = value
    return tolerances


def compare_runs(
    baseline: Path, candidate: Path, tolerances: dict[str, float], form: str, junit: Path | None
) -> tuple[Comparison, str]:
    """The comparison, and its text in the format `form`.

    If `GITHUB_STEP_SUMMARY` names a file, as in a GitHub workflow, the table is also appended to it. `junit` is written
    as JUnit XML, unless it is None.

    Raises:
        UsageError: A file cannot be written.
        StoreError: A side cannot be read.
        UnknownNameError: A tolerance names a metric that neither side has.
    """
    comparison = compare(read_snapshot(baseline), read_snapshot(candidate), tolerances)
    if junit:
        _write(junit, "w", comparison_junit(comparison))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _write(Path(summary), "a", comparison_markdown(comparison))
    return comparison, RENDERERS[form](comparison)


def _write(path: Path, mode: str, text: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:  # of a full disk, the system's own error has no path
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def make_baseline(run: Path, output: Path) -> list[str]:
    """Writes a run's baseline; returns messages for the user.

    Raises:
        UsageError: The run has no result, or the file cannot be written.
        StoreError: The run cannot be read.
    """
    try:
        return write_baseline(read_snapshot(run), output)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
