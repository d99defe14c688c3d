"""A history as a page, or as the plot alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..compare.history import HistoryLine, MetricHistory
from ..compare.verdicts import Finding
from ..plots.draw import plot_settings, to_svg
from ..plots.history import MOST_PANELS, history_figure, panels_of
from ..plots.inline import inline_svg
from ..tables.format import format_arrow, format_with_error
from ..tables.row import format_at
from .assets import assets

_TEMPLATE = Path(__file__).with_name("history.html")


def history_svg(found: MetricHistory, lines: Sequence[HistoryLine]) -> str:
    """The plot of some lines of a history as SVG, the same text for the same data."""
    with plot_settings():
        figure = history_figure(found, lines)
    return to_svg(figure)


def history_html(found: MetricHistory, lines: Sequence[HistoryLine]) -> str:
    """One HTML file that needs nothing else: the real changes, the plot, and every value of the lines shown."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    files = assets()
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        policy=files.policy,
        assets={name: Markup(getattr(files, name)) for name in ("style", "theme")},
        changes=list(real_changes(found, lines)),
        plot=Markup(inline_svg(history_svg(found, lines), 0)) if lines else "",
        panels_left_out=max(0, len(panels_of(lines)) - MOST_PANELS),
        versions=[version.label for version in found.versions],
        rows=[(line_title(line), line.device, _cells(found, line), line.apart) for line in lines],
        notes=found.notes,
    )


def real_changes(found: MetricHistory, lines: Sequence[HistoryLine]) -> list[str]:
    """A sentence for each real change, newest first; then lines that only changed over all of their steps."""
    labels = [version.label for version in found.versions]
    steps = [(point.place, point.change, line) for line in lines for point in line.changes if point.change]
    steps.sort(key=lambda step: -step[0])
    told = [_sentence(finding, f"at {labels[place]}", line) for place, finding, line in steps]
    for line in lines:
        if line.overall is not None and line.is_changed and not line.changes:
            first, last = labels[line.points[0].place], labels[line.points[-1].place]
            told.append(_sentence(line.overall, f"from {first} to {last}, in steps too small to call", line))
    return told


def _sentence(finding: Finding, when: str, line: HistoryLine) -> str:
    """Such as `regressed at 52afb88 2026-11-30: elu / gpt / recall: accuracy ↑ 0.99 to 0.95, 4.1% ± 0.8% worse (…)`."""
    told = f"{finding.verdict} {when}: {line_title(line)}"
    change = finding.change
    if change is None:
        return f"{told}, {finding.reason} ({line.device})"
    before, after = (format_with_error(value, None, finding.unit) for value in (finding.before, finding.after))
    unit = finding.percent_unit
    error = f" ± {finding.percent(change.half_width()):.2g}{unit}" if change.stderr else ""
    direction = "worse" if change.worse > 0 else "better"
    size = f"{abs(finding.percent(change.worse)):.3g}{unit}{error} {direction}"
    return f"{told} {before} to {after}, {size} ({change.method}; {line.device})"


def line_title(line: HistoryLine) -> str:
    """Such as `hedgehog / gpt / wikitext2: perplexity ↓`."""
    at = format_at(line.metric.at).replace(";", ", ")
    return (
        f"{line.cell.title}: {line.metric.name}{f' at {at}' if at else ''}{format_arrow(line.metric.higher_is_better)}"
    )


def _cells(found: MetricHistory, line: HistoryLine) -> list[tuple[str, str]]:
    """The value at each version and the class of its cell; empty where the line has none."""
    values = {point.place: point for point in line.points}
    kinds = {"regressed": "worse", "improved": "better"}
    cells = []
    for place in range(len(found.versions)):
        point = values.get(place)
        verdict = point.change.verdict if point is not None and point.change is not None else ""
        text = "" if point is None else format_with_error(point.value, point.stderr, line.metric.unit)
        cells.append((text, kinds.get(verdict, "")))
    return cells
