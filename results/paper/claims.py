"""Claims as a run judges them: what the paper reports, what was measured, the verdict; as a table, text and JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..reference.printed import MARKS, MARKS_LEGEND, NOT_KNOWN, Mark
from ..tables.format import format_measurement, format_with_error
from ..tables.tables import MISSING, Column, Entry, Table

if TYPE_CHECKING:
    from rich.console import Console

VERDICTS = ("holds", "does not hold", "undecided", "not judged")
INTERVALS = "In brackets: 95% intervals, adjusted for the number of all claims that are judged; ± is a standard error."
"""What the numbers of claims mean."""

_PALE = "bright_black"
_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow", "not judged": _PALE}


@dataclass(frozen=True)
class Reported:
    """A number of the paper that a claim is held against.

    Attributes:
        low: The number, or the lowest of several.
        high: The highest of several.
        unit: `%`, `points`, or empty for the metric's own.
        mark: How sure the least sure of the numbers behind it is.
        relation: `at least` or `up to` as the paper says it; empty if it says the number itself.
    """

    low: float
    high: float
    unit: str
    mark: Mark
    relation: str = ""

    @property
    def text(self) -> str:
        """The number in words, with its mark."""
        unit = self.unit if self.unit == "%" else f" {self.unit}".rstrip()
        number = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"{self.relation} {number}{unit} ({MARKS[self.mark]})".lstrip()


@dataclass(frozen=True)
class ClaimNumbers:
    """What decides a claim, in its unit.

    Attributes:
        contrast: Name of the contrast of models.
        value: The contrast.
        stderr: Its standard error, over documents and seeds.
        low: Lower end of the adjusted 95% interval.
        high: Its upper end.
        p_value: Adjusted p-value of the contrast being the threshold.
        threshold: The claim holds above it.
        unit: `%`, `points`, or the metric's own.
        seeds: Seeds of each model, the fewest over tasks.
        documents: Documents over all tasks; 0 if only values by seed were kept.
    """

    contrast: str
    value: float
    stderr: float
    low: float
    high: float
    p_value: float
    threshold: float
    unit: str
    seeds: int
    documents: int

    @property
    def text(self) -> str:
        """The contrast with its error and unit."""
        return f"{format_with_error(self.value, self.stderr)} {self.unit}".strip()

    @property
    def interval(self) -> str:
        """The adjusted interval in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "one seed, no interval" if self.seeds == 1 else "no bound"
        return " to ".join(format_measurement(number, self.stderr)[0] for number in (self.low, self.high))

    @property
    def above(self) -> str:
        """The threshold with its unit."""
        return f"{self.threshold:g} {self.unit}".strip()


@dataclass(frozen=True)
class ClaimLine:
    """One claim.

    Attributes:
        id: Its name.
        artefact: Id of the artefact that carries it.
        text: What it says.
        verdict: One of `VERDICTS`.
        reported: The paper's numbers; empty if none is known.
        measured: What decides it; None if it is not judged.
        note: Why it is not judged, or on how many of its tasks it was.
    """

    id: str
    artefact: str
    text: str
    verdict: str
    reported: tuple[Reported, ...] = ()
    measured: ClaimNumbers | None = None
    note: str = ""

    @property
    def reported_text(self) -> str:
        """The paper's numbers in words."""
        return "; ".join(number.text for number in self.reported) or NOT_KNOWN


def claims_table(title: str, lines: Sequence[ClaimLine]) -> Table:
    """The claims as a table of a page."""
    columns = (
        Column("verdict"),
        Column("reported"),
        Column("measured ± error", "adjusted 95% interval"),
        Column("above"),
        Column("seeds"),
        Column("documents"),
        Column("of"),
    )
    return Table(title, columns, tuple((line.text, _entries(line)) for line in lines))


def _entries(line: ClaimLine) -> tuple[Entry, ...]:
    reported, found = Entry(line.reported_text, pale=not line.reported), line.measured
    if found is None:
        return Entry(line.verdict, note=line.note, pale=True), reported, *(MISSING,) * 5
    return (
        Entry(line.verdict, failed=line.verdict == "does not hold", pale=line.verdict == "undecided"),
        reported,
        Entry(found.text, note=found.interval),
        Entry(found.above),
        Entry(str(found.seeds)),
        Entry(f"{found.documents:,}" if found.documents else "–"),
        Entry(found.contrast, note=line.note),
    )


def claims_json(lines: Sequence[ClaimLine]) -> list[dict[str, Any]]:
    """The claims as plain objects."""
    return [asdict(line) for line in lines]


def print_claims(lines: Sequence[ClaimLine], console: Console) -> None:
    """Prints each claim beside its verdict in a few lines that fit 80 characters, and how many have which verdict."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, show_header=False, padding=(0, 2, 1, 0), pad_edge=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for line in lines:
        verdict = Text(line.verdict, _STYLES[line.verdict]).append(f"\n{line.artefact.replace('-', ' ')}", _PALE)
        drawn.add_row(verdict, Text.assemble((line.text, "bold"), *_told(line)))
    console.print(drawn)
    counts = Counter(line.verdict for line in lines)
    counted = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    console.print(Text(f"{len(lines)} claims: {counted}.\n{INTERVALS}\n{MARKS_LEGEND}"))


def _told(line: ClaimLine) -> Iterator[str | tuple[str, str]]:
    """What stands below a claim in the terminal."""
    yield from (("\nreported  ", _PALE), line.reported_text)
    found = line.measured
    if found is None:
        yield from (("\nnot judged: ", _PALE), line.note)
        return
    documents = f", {found.documents:,} documents" if found.documents else ""
    note = f", {line.note}" if line.note else ""
    yield from (("\nmeasured  ", _PALE), f"{found.text} ({found.interval}); must exceed {found.threshold:g}")
    yield from (("\nof        ", _PALE), f"{found.contrast}; seeds: {found.seeds}{documents}{note}")
