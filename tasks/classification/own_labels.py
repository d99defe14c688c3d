"""Labels of data that the user names: classes with or without names, or numbers, from what a column holds."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...results.foreign import parse_json
from ..data.own_rows import OwnRows

if TYPE_CHECKING:
    from pyarrow import Schema, Table

KINDS = ("auto", "classes", "numbers")
"""What labels may be: classes, numbers of a regression, or what the values of their column are."""

LABEL = "label"
"""Column of the labels in the tables that `Labels.beside` makes, as the protocol reads it."""

_FEATURES = b"huggingface"
"""Key of a table's metadata under which the library `datasets` keeps the features of its columns."""

_WHOLE, _NUMBER = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SHOWN = 5


@dataclass(frozen=True)
class Labels:
    """The labels of data.

    Attributes:
        values: A class id, or a number, of each row, by role.
        count: Number of classes, or 1 for numbers.
        names: The classes in the order of their ids; empty for ids without names, and for numbers.
    """

    values: Mapping[str, Sequence[float]]
    count: int
    names: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`classes` or `numbers`."""
        return "numbers" if self.count == 1 else "classes"

    def beside(self, role: str, texts: Table) -> Table:
        """The texts of a role with their labels, and the features from which `datasets` has the names of classes."""
        pyarrow: Any = importlib.import_module("pyarrow")
        dtype = "float64" if self.count == 1 else "int64"
        label: Mapping[str, Any] = {"dtype": dtype, "_type": "Value"}
        if self.names:
            label = {"names": list(self.names), "_type": "ClassLabel"}
        text = {"dtype": "string", "_type": "Value"}
        features = {**dict.fromkeys(texts.column_names, text), LABEL: label}
        table: Table = texts.append_column(LABEL, pyarrow.array(self.values[role], dtype))
        return table.replace_schema_metadata({_FEATURES: json.dumps({"info": {"features": features}})})


def read_labels(rows: OwnRows, column: str, kind: str) -> Labels:
    """The labels in a column.

    Names of classes are those of the feature `ClassLabel`, else texts, else whole numbers; whole numbers from 0 without
    a gap, and truth values, are ids without names. Texts that all spell numbers count as numbers. The classes are those
    of the training rows, or of the test rows where nothing is trained, in the order of their values.

    Args:
        rows: The rows.
        column: Name of the column.
        kind: One of `KINDS`.

    Raises:
        ValueError: There is no such column; a row has no label, or labels are not of that kind; a test row is of a
            class that no training row is of; there is only one class.
    """
    for role in rows.files:
        rows.check_column(role, "label", column)
    found = {role: rows.read(role, column) for role in rows.files}
    names = _feature_names(next(iter(found.values())).schema, column)
    where = f"label is the column {column!r} of {rows.id}"
    values = _plain({role: table[column].to_pylist() for role, table in found.items()}, where)
    types = {type(value) for each in values.values() for value in each}
    if kind == "numbers" or (kind == "auto" and types == {float} and not names):
        if names or not types <= {int, float}:
            raise ValueError(f"{where}, which holds {_shown(values)}; allowed for kind=numbers: numbers")
        return Labels({role: [float(value) for value in each] for role, each in values.items()}, 1)
    return _classes(values, names, where)


def _classes(values: Mapping[str, Sequence[Any]], names: tuple[str, ...], where: str) -> Labels:
    """Class ids of labels; `names` are those of the feature, if the column has one."""
    types = {type(value) for each in values.values() for value in each}
    if len(types) > 1 or not types <= {str, int, bool} or (names and types != {int}):
        raise ValueError(
            f"{where}, which holds {_shown(values)}; allowed for classes: texts, whole numbers, truth values; for "
            "kind=numbers: numbers"
        )
    known = range(len(names)) if names else sorted(set(values.get("train", values["test"])))
    if strange := sorted({value for each in values.values() for value in each} - set(known)):
        told = "which its feature does not name" if names else "which no training row has"
        raise ValueError(f"{where}, where rows of the split test or train have the label {strange[:_SHOWN]}, {told}")
    if len(known) < 2:
        raise ValueError(f"{where}, which has the one class {known[0]!r}; allowed: two or more")
    ids = {value: place for place, value in enumerate(known)}
    is_named = types == {str} or list(known) != list(range(len(known)))
    told_names = names or (tuple(map(str, known)) if is_named else ())
    return Labels({role: [ids[value] for value in each] for role, each in values.items()}, len(known), told_names)


def _plain(values: Mapping[str, Sequence[Any]], where: str) -> dict[str, list[Any]]:
    """Labels, with texts that all spell numbers as numbers.

    Raises:
        ValueError: A row has no label.
    """
    for role, each in values.items():
        missing = [i for i, value in enumerate(each) if value in (None, "") or _is_nan(value)]
        if missing:
            raise ValueError(f"{where}, where {len(missing)} rows of the split {role} have no label (row {missing[0]})")
    texts = [value for each in values.values() for value in each]
    if not all(isinstance(value, str) for value in texts):
        return {role: list(each) for role, each in values.items()}
    spelled = int if all(map(_WHOLE.fullmatch, texts)) else float if all(map(_NUMBER.fullmatch, texts)) else str
    return {role: [spelled(value) for value in each] for role, each in values.items()}


def _feature_names(schema: Schema, column: str) -> tuple[str, ...]:
    """The names that the feature `ClassLabel` of a column gives its classes; empty if it has no such feature."""
    content = (schema.metadata or {}).get(_FEATURES)
    features = parse_json(content).get("info", {}).get("features", {}) if content else {}
    return tuple(features.get(column, {}).get("names") or ())


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(values: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(list(dict.fromkeys(repr(value) for each in values.values() for value in each))[:_SHOWN])
