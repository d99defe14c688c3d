"""One number of a leaderboard: what was measured, under which conditions, and the measurements behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ..record import Scalar
from ..stats.changes import QUALITY_UNITS
from ..stats.evidence import NO_EVIDENCE, Evidence

REFERENCE_MODEL = "softmax"
PARTIAL = "partial"

AXIS = "seq_len"
"""The coordinate along which sweeps are drawn and costs grow."""

_T = TypeVar("_T")
_K = TypeVar("_K")

ModelKey: TypeAlias = tuple[str, int]
"""A model and its variant (see `Row`)."""

CONTENDER = "contender"
"""Coordinate that names another implementation a task measures beside the cell's model; rows have it as their model."""


@dataclass(frozen=True)
class Conditions:
    """The conditions that two numbers must share to be compared.

    Attributes:
        backbone: Such as `gpt`.
        task: Such as `wikitext2`.
        recipe: Such as `scratch`.
        scale: `smoke`, `small` or `paper`.
        limit: Rows asked for with `--limit`; None for all of them.
        data: Identity of the data; empty if no cell read any.
    """

    backbone: str
    task: str
    recipe: str
    scale: str
    limit: int | None
    data: str

    @property
    def place(self) -> str:
        """Backbone, recipe and scale, for titles."""
        return f"{self.backbone}, {self.recipe}, {self.scale}"

    @property
    def section(self) -> str:
        """Title of its section of a report: backbone, recipe and scale, and the limit of partial results."""
        title = f"{self.backbone} · {self.recipe} · {self.scale}"
        return title if self.limit is None else f"{title} · {PARTIAL}: first {self.limit} rows"


@dataclass(frozen=True)
class Row:
    """One metric of one model, over its seeds.

    Attributes:
        model: Canonical model spec, or the name of a contender.
        comparison: Conditions of the measurement; only rows with equal conditions are compared.
        metric: Name of the metric; the task's main metric for a failed cell.
        at: Coordinates of a sweep's point as `key=value;key=value`, keys sorted; empty outside sweeps.
        value: Mean over seeds; None where nothing was measured.
        stderr: For one seed the metric's own standard error; for several, the standard error over seeds.
        n: Samples behind one seed's value, the fewest of any seed. Seeds share a test set, so their samples are not
            added.
        unit: Unit of `value`.
        higher_is_better: Direction; None for a number without a better direction.
        seeds: The seeds, such as `0,1,2`.
        percent_recovered: Score in percent of softmax's under the same conditions; None if not defined, as for times,
            bytes and correlations.
        factor: A time's, a rate's or a memory's ratio to softmax's; None for scores.
        status: `ok`, `partial` for a number from part of the data, or why there is no value.
        is_main: Whether this is the metric that ranks models on the task.
        variant: Counts cells that only differ in settings or code: 0 for the first.
        coordinates: The point of the sweep that `at` spells out.
        peer_key: Peer key of the cells behind the row; empty where they have none.
        is_failed_cell: Whether the row stands for cells that ended without their main metric.
        evidence: The measurements behind the value, by seed; no part of a row's identity.
    """

    model: str
    comparison: Conditions
    metric: str
    at: str = ""
    value: float | None = None
    stderr: float | None = None
    n: int = 0
    unit: str = ""
    higher_is_better: bool | None = None
    seeds: str = ""
    percent_recovered: float | None = None
    factor: float | None = None
    status: str = "ok"
    is_main: bool = False
    variant: int = 0
    coordinates: Mapping[str, Scalar] = field(default_factory=dict, hash=False)
    peer_key: str = ""
    is_failed_cell: bool = False
    evidence: Evidence = field(default=NO_EVIDENCE, compare=False, repr=False)

    @property
    def key(self) -> ModelKey:
        """The model and its variant."""
        return self.model, self.variant

    @property
    def label(self) -> str:
        """The model's name in tables and legends."""
        return model_label(*self.key)

    @property
    def is_quality(self) -> bool:
        """Whether the number is one of quality, and not of time or memory."""
        return self.unit in QUALITY_UNITS

    @property
    def point(self) -> str:
        """`at` for titles, with commas."""
        return self.at.replace(";", ", ")

    @property
    def seq_len(self) -> float:
        """The coordinate `seq_len` as a number."""
        return float(self.coordinates[AXIS] or 0)

    @property
    def has_seq_len(self) -> bool:
        """Whether the row is a point of a sweep over sequence lengths."""
        return isinstance(self.coordinates.get(AXIS), int | float)

    def other_coordinates(self, *left_out: str) -> str:
        """The coordinates for titles, without those of the given names."""
        return ", ".join(f"{key}={self.coordinates[key]}" for key in sorted(self.coordinates) if key not in left_out)


def model_label(model: str, variant: int) -> str:
    """A model's name in tables and legends; the second and later sets of settings are numbered."""
    return model if variant == 0 else f"{model} (settings {variant + 1})"


def grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    """The items by their key; keys and items keep the order in which they come."""
    found: dict[_K, list[_T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)


def format_at(at: Mapping[str, Scalar]) -> str:
    """Coordinates as `key=value;key=value`, keys sorted."""
    return ";".join(f"{key}={at[key]}" for key in sorted(at))


def softmax_first(key: ModelKey) -> tuple[bool, str, int]:
    """Sort key of models: softmax comes first, the others follow by name."""
    return key[0] != REFERENCE_MODEL, *key
