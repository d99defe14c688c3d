"""The record of one cell: what ran, on what, and what came out.

A record is plain data. It is written once, as JSON, and every table, plot and check is computed from records alone.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from .foreign import convert, finite, format_json
from .migrations import SCHEMA_VERSION as SCHEMA_VERSION
from .migrations import migrated

Status: TypeAlias = Literal["ok", "oom", "timeout", "unsupported", "error"]
Scalar: TypeAlias = str | int | float | bool | None

STATUSES: tuple[Status, ...] = typing.get_args(Status)

TRAINING_SPLIT = "train"
"""The split of curve points that were measured on the batches of training."""
PART_MARK = "/"
"""Occurs in the names of curves of a part of a model, such as a layer or a head, and in no other curve's name."""
WITHOUT_BRANCH = "without_linear_branch"
"""Key of a hybrid's predictions for what differs in them without its linear branch; ends the names of their metrics."""
UNSCORED = "unscored"
"""Key of a prediction's row that holds the reason why no metric counts the row."""


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        name: What was measured, such as `perplexity` or `prefill_ms`.
        value: The number; None if this point could not be measured (see `status`).
        unit: Such as `nats`, `tokens/s`, `bytes`, or `1` for a pure ratio.
        higher_is_better: The direction of improvement; None for a number without a better direction.
        stderr: Standard error of `value`, or None where none is defined.
        n: How many independent samples `value` rests on.
        at: Coordinates of a sweep's point, such as `{"seq_len": 512}`.
        status: `ok`, or why this point has no value.
        samples: Raw repeated measurements in `unit`, in the order taken; empty if there are none.
    """

    name: str
    value: float | None
    unit: str
    higher_is_better: bool | None
    stderr: float | None
    n: int
    at: Mapping[str, Scalar] = field(default_factory=dict)
    status: Status = "ok"
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class KernelUse:
    """The form and backend of an attention kernel that really ran, and the phase of the cell in which it ran."""

    phase: str
    form: str
    backend: str


@dataclass(frozen=True)
class DataIdentity:
    """Which data a cell read.

    Attributes:
        id: Hub id with configuration, or the name of a generator or embedded corpus.
        revision: Hub revision or generator version; empty when `fingerprint` alone identifies the data.
        fingerprint: Hash of the content.
        source: Where it came from: `mirror`, `hub`, `folder`, `embedded` or `generated`; `imported` for a result of
            another program.
        splits: Rows per split that was used.
        details: What else identifies it, such as the tokenizer's name, and how it was read: `tokenizer_source`,
            `prefix_token`, `label_mapping`, and what a paired comparison pairs (`paired_by`, `paired_digest`).
    """

    id: str
    revision: str
    fingerprint: str
    source: str
    splits: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result: exception type, message, and the last lines of its log."""

    type: str
    message: str
    log_tail: str = ""


@dataclass(frozen=True)
class CurvePoint:
    """One point of a training curve: the value of a quantity, by its name, on a split after so many training steps."""

    step: int
    split: str
    name: str
    value: float


@dataclass(frozen=True)
class Record:
    """Everything that is kept about one cell.

    Attributes:
        schema_version: Version of this layout.
        run_id: Name of the run that measured the cell.
        cell_id: Hash of all that can change the cell's numbers.
        model: Canonical model spec, such as `hedgehog:map=softmax`.
        backbone: Such as `gpt`.
        task: Such as `wikitext2`.
        recipe: Such as `scratch`.
        scale: `smoke`, `small` or `paper`; `imported` for what another program measured.
        seed: Seed of initialisation, data order and sampling.
        status: `ok`, or why there is no result.
        main_metric: The metric that ranks models on this task.
        metrics: Measured numbers.
        settings: Every resolved hyper-parameter, as `stage.key`.
        timings_s: Seconds by phase.
        kernels: Attention kernels that ran.
        data: Which data was read; None if the data could not be identified.
        environment: Versions, device, threads, commit.
        limit: Rows asked for with `--limit`; None for all of them.
        peer_key: Hash of everything but model and seed: cells with equal peer keys compare models.
        error: Why the cell failed, unless `status` is `ok`.
        curves: Training and validation curves.
        notes: Fallbacks, substitutes and early stops, in words.
    """

    schema_version: int
    run_id: str
    cell_id: str
    model: str
    backbone: str
    task: str
    recipe: str
    scale: str
    seed: int
    status: Status
    main_metric: str
    metrics: tuple[Metric, ...]
    settings: Mapping[str, Scalar | tuple[Scalar, ...]]
    timings_s: Mapping[str, float]
    kernels: tuple[KernelUse, ...]
    data: DataIdentity | None
    environment: Mapping[str, Scalar]
    limit: int | None = None
    peer_key: str = ""
    error: Failure | None = None
    curves: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()

    def main(self) -> Metric | None:
        """The metric that ranks models on this task; None if it was not measured."""
        return next((m for m in self.metrics if m.name == self.main_metric and m.value is not None), None)


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON-ready data. Non-finite numbers become the strings `nan`, `inf` and `-inf`."""
    plain: dict[str, Any] = finite(asdict(record))
    return plain


def from_json(data: Mapping[str, Any]) -> Record:
    """The record that `to_json` wrote, in this release or an earlier one (see `results/migrations.py`).

    Raises:
        NewerVersionError: A newer release wrote it.
        ForeignJsonError: A field is missing, unknown or of the wrong type.
    """
    return convert(migrated(data), Record, "record")


def record_text(record: Record, indent: int | None = None) -> str:
    """The record as a JSON text."""
    return format_json(asdict(record), indent)
