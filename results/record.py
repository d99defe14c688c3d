"""The record of one cell: what ran, on what, and what came out.

A record is plain data. It is written once, as JSON, and every table, plot and check is computed from records alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .migrations import SCHEMA_VERSION as SCHEMA_VERSION
from .migrations import NewerVersionError, UnknownVersionError, migrated

Status: TypeAlias = Literal["ok", "oom", "timeout", "unsupported", "error"]
Scalar: TypeAlias = str | int | float | bool | None

STATUSES: tuple[Status, ...] = typing.get_args(Status)


class InvalidRecordError(ValueError):
    """A record's JSON does not have the fields or types of this schema version."""


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        name: What was measured, such as `perplexity`; the unit is not part of the name.
        value: The number; None when this point could not be measured (see `status`).
        unit: Such as `nats`, `tokens/s`, `bytes`, or `1` for a pure ratio.
        higher_is_better: The direction of improvement; None for a number that only describes.
        stderr: Standard error of `value`, or None where none is defined.
        n: How many independent samples `value` rests on.
        at: Coordinates of a sweep's point, such as `{"seq_len": 512}`.
        status: `ok`, or why this point has no value.
        samples: Raw repeated measurements in `unit`, in the order taken, where there are any.
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
    """The form and backend of an attention kernel that really ran, and in which part of the cell's work."""

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
        source: Where it came from: `mirror`, `hub`, `embedded` or `generated`; `imported` with a foreign result.
        splits: Rows per split that was used.
        details: What else identifies it, such as the tokenizer's name.
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
    """One point of a training curve."""

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
        data: Which data was read; None when the cell failed before reading any.
        environment: Versions, device, threads, commit.
        limit: Rows asked for with `--limit`; None for all of them.
        peer_key: Hash of all but the model: cells with the same one are comparable.
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
        """The metric that ranks models on this task; None when it was not measured."""
        return next((m for m in self.metrics if m.name == self.main_metric and m.value is not None), None)


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON-ready data. Non-finite numbers become the strings `nan`, `inf` and `-inf`."""
    plain = _to_plain(dataclasses.asdict(record))
    assert isinstance(plain, dict)
    return plain


def from_json(data: Mapping[str, Any]) -> Record:
    """The record that `to_json` wrote, in this release or an earlier one (see `results/migrations.py`).

    Raises:
        NewerVersionError: A newer release wrote it.
        InvalidRecordError: A field is missing, unknown or of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise InvalidRecordError(f"a record is a JSON object, not {type(data).__name__}")
    try:
        record = _parse(Record, migrated(data), "record")
    except NewerVersionError:
        raise
    except UnknownVersionError as error:
        raise InvalidRecordError(str(error)) from error
    assert isinstance(record, Record)
    return record


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


_Parser: TypeAlias = Callable[[Any, str], Any]


def _parse(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of the annotated type `kind`."""
    return _parser(kind)(value, where)


@functools.cache
def _parser(kind: Any) -> _Parser:
    """The parser of a type, built once: resolving type hints for every value takes far longer than parsing it."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_parser(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return lambda value, where: _require(value in arguments, value, where, " or ".join(map(repr, arguments)))
    if origin is typing.Union or origin is types.UnionType:
        return _union_parser(arguments)
    if origin is tuple:
        return _tuple_parser(_parser(arguments[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_parser(_parser(arguments[1]))
    return functools.partial(_parse_scalar, kind)


def _dataclass_parser(kind: Any) -> _Parser:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    parsers = {f.name: _parser(hints[f.name]) for f in fields}
    required = {f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}

    def parse(value: Any, where: str) -> Any:
        _require(isinstance(value, dict), value, where, "an object")
        if missing := sorted(required - value.keys()):
            raise InvalidRecordError(f"{where} lacks {', '.join(missing)}")
        if unknown := sorted(value.keys() - parsers.keys()):
            raise InvalidRecordError(f"{where} has unknown fields {', '.join(unknown)}")
        return kind(**{key: parsers[key](item, f"{where}.{key}") for key, item in value.items()})

    return parse


def _tuple_parser(parse_item: _Parser) -> _Parser:
    def parse(value: Any, where: str) -> Any:
        _require(isinstance(value, list | tuple), value, where, "a list")
        return tuple([parse_item(item, f"{where}[{i}]") for i, item in enumerate(value)])

    return parse


def _mapping_parser(parse_item: _Parser) -> _Parser:
    def parse(value: Any, where: str) -> Any:
        _require(isinstance(value, dict), value, where, "an object")
        return {str(key): parse_item(item, f"{where}.{key}") for key, item in value.items()}

    return parse


def _union_parser(arguments: tuple[Any, ...]) -> _Parser:
    """A value of one of the scalar types is taken as it is; anything else is tried type by type."""
    exact = {kind for kind in arguments if kind in (str, int, float, bool, type(None))}
    parsers = [_parser(kind) for kind in arguments]

    def parse(value: Any, where: str) -> Any:
        if type(value) in exact:
            return value
        errors = []
        for parser in parsers:
            try:
                return parser(value, where)
            except InvalidRecordError as error:
                errors.append(str(error))
        raise InvalidRecordError(errors[0])

    return parse


def _parse_scalar(kind: Any, value: Any, where: str) -> Any:
    if type(value) is kind:
        return value
    if kind is float and value in ("nan", "inf", "-inf"):
        return float(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int:
        return _require(isinstance(value, int) and not isinstance(value, bool), value, where, "an integer")
    if kind is type(None):
        return _require(value is None, value, where, "null")
    return _require(isinstance(value, kind), value, where, f"a {kind.__name__}")


def _require(condition: bool, value: Any, where: str, expected: str) -> Any:
    if not condition:
        raise InvalidRecordError(f"{where} is {value!r}; expected {expected}")
    return value
