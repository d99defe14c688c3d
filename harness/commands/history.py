"""`bench history`: metrics over commits in the terminal, as JSON, as a plot and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...results.atomic import replacing
from ...results.compare.history import HistoryLine, MetricHistory, history, history_json, shown_lines
from ...results.compare.snapshot import read_snapshot
from ...results.names import UsageError
from ...results.tables.format import format_measurement
from ..environment import commit_date
from ..registry import ROOT

if TYPE_CHECKING:
    from rich.console import Console

SUFFIXES = (".html", ".svg")
"""Kinds of files that a history is drawn to."""

_BLOCKS = "▁▂▃▄▅▆▇█"


def load_history(paths: Sequence[Path]) -> MetricHistory:
    """The history of runs, baseline files and folders of either.

    Raises:
        StoreError: A path is none of these, or cannot be read.
        UsageError: There are fewer than two runs or baselines with a result.
    """
    snapshots = [read_snapshot(found) for path in paths for found in _runs_in(path)]
    return history(snapshots, cache(lambda commit: commit_date(ROOT, commit)))


def _runs_in(path: Path) -> list[Path]:
    """The path itself if it is a run, a file or absent; else the baselines and runs in the folder, by name."""
    if not path.is_dir() or (path / "cells").is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix == ".json" or (each / "cells").is_dir())
    if not found:
        raise UsageError(f"{str(path)!r} holds neither baselines (NAME.json) nor folders of runs")
    return found


def draw_history(found: MetricHistory, lines: Sequence[HistoryLine], output: Path) -> None:
    """Writes the plot of some lines to a file `.svg`, or the page to a file `.html`.

    Raises:
        UsageError: The file has another suffix, or cannot be written.
    """
    from ...results.report.history import history_html, history_svg

    if output.suffix not in SUFFIXES:
        raise UsageError(f"--output {str(output)!r} ends in {output.suffix!r}; allowed: {', '.join(SUFFIXES)}")
    text = history_html(found, lines) if output.suffix == ".html" else history_svg(found, lines)
    try:
        with replacing(output) as file:
            file.write(text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error


def print_history(found: MetricHistory, lines: Sequence[HistoryLine], console: Console) -> None:
    """Prints a table for each device, the real changes and the notes."""
    from rich.text import Text

    from ...results.report.history import real_changes

    first, last = found.versions[0].label, found.versions[-1].label
    console.print(Text(f"{len(found.versions)} runs, from {first} to {last}"))
    for device in dict.fromkeys(line.device for line in lines):
        console.print(Text(device, style="bold"))
        _print_lines(found, [line for line in lines if line.device == device], console)
    changes = real_changes(found, lines)
    if not lines:
        console.print("No main metric was measured twice under the same conditions; --metric '*' shows everything.")
    elif not changes:
        console.print("No metric has changed significantly and beyond its margin.")
    for change in changes:
        console.print(Text(change, style="red" if change.startswith("regressed") else "green"))
    alone = sum(len(line.points) == 1 for line in found.lines if line.is_main and line not in lines)
    more = (f"{alone} main metrics have one run under their conditions; --metric NAME shows them",) if alone else ()
    for note in (*found.notes, *more):
        console.print(Text(note, style="bright_black"))


def _print_lines(found: MetricHistory, lines: Sequence[HistoryLine], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    drawn.add_column("model", overflow="fold")
    drawn.add_column("task: metric", overflow="fold", ratio=1)
    for heading in ("first", "last"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("over commits", no_wrap=True)
    drawn.add_column("changes", justify="right")
    for line in lines:
        known = [point for point in line.points if point.value is not None]
        values = [format_measurement(p.value, p.stderr, line.metric.unit)[0] for p in (known[:1] + known[-1:])]
        at = " ".join(f"{key}={value}" for key, value in sorted(line.metric.at.items()))
        what = " ".join(filter(None, (f"{line.cell.task}: {line.metric.name}", at, line.apart and f"({line.apart})")))
        worst = "red" if any(p.change and p.change.verdict == "regressed" for p in line.changes) else "green"
        count = Text(str(len(line.changes) or ("slow" if line.is_changed else "")), style=worst)
        drawn.add_row(Text(line.cell.model), Text(what), *map(Text, values or ["–", "–"]), _spark(found, line), count)
    console.print(drawn)


def _spark(found: MetricHistory, line: HistoryLine) -> str:
    """A block for each version, lowest to highest value; a dot where the line has none."""
    values = {point.place: point.value for point in line.points if point.value is not None}
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    top = len(_BLOCKS) - 1
    blocks = {
        place: _BLOCKS[round(top * (value - low) / (high - low)) if high > low else top // 2]
        for place, value in values.items()
    }
    return "".join(blocks.get(place, "·") for place in range(len(found.versions)))


def show_history(
    paths: Sequence[Path], metrics: Sequence[str], output: Path | None, as_json: bool, console: Console
) -> None:
    """Prints a history, as JSON if asked for, and draws it to `output` unless that is None.

    Raises:
        StoreError: A path is no run, baseline or folder of either, or cannot be read.
        UsageError: There are fewer than two runs with a result, or the file cannot be written.
        UnknownNameError: There is no such metric.
    """
    found = load_history(paths)
    lines = shown_lines(found.lines, metrics)
    if output is not None:
        draw_history(found, lines, output)
    if as_json:
        print(history_json(found), end="")
    else:
        print_history(found, lines, console)
