"""The results of runs as one value: a data frame, a leaderboard, verdicts and plots, for notebooks and scripts."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from ...results.compare.snapshot import Snapshot, read_snapshot
from ...results.compare.verdicts import Comparison, compare
from ...results.foreign import parse_json
from ...results.record import Record
from ...results.stats.evidence import Scores, kept_scores
from ...results.store import RunStore
from ...results.tables.aggregate import group_seeds, leaderboard_rows, merge_runs, rows_of_groups
from ...results.tables.leaderboard import COLUMNS, LEGEND, row_values
from ...results.tables.notes import percent_notes
from ...results.tables.tables import MAIN, Markup, Table, sections

if TYPE_CHECKING:
    import pandas as pd

    from ...results.plots.draw import Plot

_OF_RECORD = ("model", "backbone", "task", "recipe", "scale", "seed", "limit")
_OF_METRIC = ("value", "stderr", "unit", "higher_is_better", "n")
_DTYPES = {
    **dict.fromkeys(("model", "backbone", "task", "recipe", "scale", "metric", "unit", "status"), "string"),
    **dict.fromkeys(("at", "seeds", "run", "cell", "error"), "string"),
    **dict.fromkeys(("seed", "limit", "n"), "Int64"),
    **dict.fromkeys(("value", "stderr", "percent_recovered"), "float64"),
    **dict.fromkeys(("higher_is_better", "is_main"), "boolean"),
}
_MARKUP = Markup(html.escape, best="<b>{}</b>", stderr=" ± {}", rank=" <sup>{}</sup>")


@dataclass(frozen=True)
class Results:
    """Results of one run or of several.

    Attributes:
        records: One for each cell, in a fixed order; failed cells too, with their reason as `error`.
        path: Folder of the run, or the baseline file; of several the last one.
        samples: Gives a record's predictions.
    """

    records: tuple[Record, ...]
    path: Path
    samples: Callable[[Record], Iterable[Mapping[str, Any]]] = field(repr=False)

    @classmethod
    def of_plan(cls, folder: Path) -> Self:
        """The cells of a run's folder that the latest run planned.

        Raises:
            StoreError: The folder holds no run.
        """
        store = RunStore.of_run(folder.absolute())  # predictions are read later, maybe from another current folder
        planned = {cell["cell"] for cell in parse_json(store.manifest.read_bytes())["plan"]}
        records = tuple(record for record in store.records().records if record.cell_id in planned)
        return cls(records, folder, lambda record: store.kept_samples(record.cell_id))

    @property
    def failed(self) -> tuple[Record, ...]:
        """The records of cells without a result."""
        return tuple(record for record in self.records if record.status not in ("ok", "oom"))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each metric of each cell; a failed cell without metrics has one row without a metric.

        Coordinates of sweeps, such as `seq_len`, have columns of their own. Missing values are pandas' `NA`.
        """
        import pandas as pd

        rows = [row for record in self.records for row in _metric_rows(record)]
        coordinates = list(dict.fromkeys(key for row in rows for key in row if key not in _DTYPES))
        columns = [*_OF_RECORD, "metric", *coordinates, *_OF_METRIC, "is_main", "status", "error", "run", "cell"]
        frame = pd.DataFrame(rows, columns=columns)
        frame[coordinates] = frame[coordinates].convert_dtypes()
        return _typed(frame)

    def leaderboard(self) -> pd.DataFrame:
        """The tasks' main metrics, averaged over seeds: the columns of `leaderboard.csv`, softmax first."""
        import pandas as pd

        rows = [row_values(row) for row in leaderboard_rows(self.records, self._scores) if row.is_main]
        return _typed(pd.DataFrame(rows, columns=list(COLUMNS)))

    def compare(self, baseline: Results | str | Path, tolerances: Mapping[str, float] | None = None) -> Comparison:
        """Verdicts on every metric of these results against earlier ones, as `bench compare` gives them.

        Args:
            baseline: Earlier results, a run's folder, or a file of `bench baseline`.
            tolerances: How much worse still counts as unchanged, by metric, in percent, or points of a fraction.

        Raises:
            StoreError: The baseline cannot be read.
            UnknownNameError: A tolerance names a metric that neither side has.
        """
        earlier = baseline if isinstance(baseline, Results) else load_results(baseline)
        return compare(earlier._snapshot(), self._snapshot(), tolerances)

    def plots(self) -> Plots:
        """Every plot for which there are numbers; a notebook shows them."""
        from ...results.plots.make import make_plots

        return Plots(tuple(make_plots(self.records, self.samples)))

    def __repr__(self) -> str:
        return f"{len(self.records)} cells in {self.path}" + (f", {len(self.failed)} failed" if self.failed else "")

    def _repr_html_(self) -> str:
        """The leaderboard's tables with their notes, and why cells have no result."""
        groups = group_seeds(self.records)
        parts: list[str] = []
        for section in sections(rows_of_groups(groups, self._scores), percent_notes(groups)):
            parts.append(f"<h4>{html.escape(section.title)}</h4>")
            parts += map(_html_table, section.tables)
            parts += (f"<small>{html.escape(note)}</small><br>" for note in section.notes)
        parts += [f"<small>{html.escape(LEGEND)}</small><br>"] if parts else []
        for record in self.failed:
            reason = f"{record.error.type}: {record.error.message}" if record.error else "no reason was given"
            text = f"{record.model} / {record.task} / seed {record.seed}: {record.status}: {reason}"
            parts.append(f"<small>{html.escape(text)}</small><br>")
        return "\n".join([*parts, f"<small>{html.escape(repr(self))}</small>"])

    @cached_property
    def _scores(self) -> Scores:
        return kept_scores(self.samples)

    def _snapshot(self) -> Snapshot:
        samples = {record.cell_id: list(self.samples(record)) for record in self.records}
        return Snapshot(str(self.path), self.records, {key: rows for key, rows in samples.items() if rows})


@dataclass(frozen=True)
class Plots(Sequence["Plot"]):
    """Plots with their titles and Matplotlib's figures; a notebook shows all of them."""

    plots: tuple[Plot, ...]

    @overload
    def __getitem__(self, index: int) -> Plot: ...
    @overload
    def __getitem__(self, index: slice) -> Plots: ...
    def __getitem__(self, index: int | slice) -> Plot | Plots:
        """One plot, or some of them."""
        return Plots(self.plots[index]) if isinstance(index, slice) else self.plots[index]

    def __len__(self) -> int:
        return len(self.plots)

    def __repr__(self) -> str:
        return "\n".join(plot.name for plot in self.plots) or "no plots"

    def _repr_html_(self) -> str:
        """The plots as images."""
        return "\n".join(map(_image, self.plots)) or "no plots"


def load_results(*paths: str | Path) -> Results:
    """The results of runs that are done or under way.

    Args:
        *paths: Folders of runs, or files of `bench baseline`; of a cell that several have, the later one's record.

    Raises:
        StoreError: A path is neither, or cannot be read.
        TypeError: No path is given.
    """
    if not paths:
        raise TypeError("load_results needs the folder of a run")
    found = [(Path(path), read_snapshot(Path(path))) for path in paths]
    records, _ = merge_runs([(path.name, snapshot.records) for path, snapshot in found])
    samples = {key: rows for _, snapshot in found for key, rows in snapshot.samples.items()}
    return Results(tuple(records), found[-1][0], lambda record: samples.get(record.cell_id, ()))


def _metric_rows(record: Record) -> Iterator[dict[str, Any]]:
    shared = {name: getattr(record, name) for name in _OF_RECORD}
    shared |= {"run": record.run_id, "cell": record.cell_id, "error": record.error and record.error.message}
    if not record.metrics:
        yield {**shared, "status": record.status}
    for metric in record.metrics:
        own = {name: getattr(metric, name) for name in _OF_METRIC}
        is_main = metric.name == record.main_metric
        yield {**metric.at, **shared, **own, "metric": metric.name, "is_main": is_main, "status": metric.status}


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({name: kind for name, kind in _DTYPES.items() if name in frame.columns})


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(each.label)}<br>{html.escape(each.detail)}</th>" for each in table.columns)
    rows = (
        f"<tr><th>{html.escape(model)}</th>{''.join(f'<td>{_MARKUP.entry(entry)}</td>' for entry in entries)}</tr>"
        for model, entries in table.rows
    )
    title = f"<caption>{html.escape(table.title)}</caption>" if table.title != MAIN else ""
    return f"<table>{title}<thead><tr><th>model</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _image(plot: Plot) -> str:
    from ...results.plots.draw import to_svg

    data = base64.b64encode(to_svg(plot.figure).encode()).decode()
    return f'<img alt="{html.escape(plot.title)}" src="data:image/svg+xml;base64,{data}">'
