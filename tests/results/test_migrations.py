"""A record of every schema version so far is read, and what a version holds does not change."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgebench.results import record as record_module
from hedgebench.results.foreign import ForeignJsonError
from hedgebench.results.migrations import SCHEMA_VERSION, NewerVersionError, migrated
from hedgebench.results.record import Metric, Record, from_json, to_json

DATA = Path(__file__).parent / "data"
VERSIONS = range(1, SCHEMA_VERSION + 1)


def fields(kind: Any, where: str = "") -> Iterator[str]:
    """Every field below a dataclass, with its type, as `metrics.name: str`."""
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        yield f"{where}{field.name}: {field.type}"
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from fields(inner, f"{where}{field.name}.")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_record_of_every_version_is_read(version: int) -> None:
    kept = json.loads((DATA / f"record-v{version}.json").read_text(encoding="utf-8"))
    record = from_json(kept)
    assert kept["schema_version"] == version
    assert record.schema_version == SCHEMA_VERSION
    assert (record.model, record.task, record.seed, record.status) == ("hedgehog:map=softmax", "throughput", 2, "error")
    assert record.metrics[0] == Metric(
        "prefill_ms", 12.5, "ms", False, 0.25, 3, {"batch_size": 1, "seq_len": 512}, "ok", (12.0, 12.5, 13.5)
    )
    assert record.metrics[1].value is None
    assert record.error is not None
    assert record.data is not None
    assert (record.error.type, record.data.splits, record.curves[0].value) == (
        "ValueError",
        {"train": 8, "test": 4},
        float("inf"),
    )


def test_what_a_version_holds_changes_with_its_number_only() -> None:
    kept = (DATA / f"schema-v{SCHEMA_VERSION}.txt").read_text(encoding="utf-8").splitlines()
    assert list(fields(Record)) == kept, "append a step to results/migrations.py and keep a record of the new version"


def test_the_kept_record_of_this_version_fills_every_field() -> None:
    kept = json.loads((DATA / f"record-v{SCHEMA_VERSION}.json").read_text(encoding="utf-8"))
    assert to_json(from_json(kept)) == kept
    assert {key for key, value in kept.items() if value in (None, "", [], {})} == set()


def test_versions_are_climbed_one_at_a_time() -> None:
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        data["task"] = data.pop("job")
        return data

    def add(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "seed": 0, "was": data["schema_version"]}

    first = {"schema_version": 1, "job": "recall"}
    steps = (rename, add)
    assert migrated(first, steps) == {"schema_version": 3, "task": "recall", "seed": 0, "was": 2}
    assert migrated({"schema_version": 2, "task": "recall"}, steps)["schema_version"] == 3
    assert migrated({"schema_version": 3, "task": "recall"}, steps) == {"schema_version": 3, "task": "recall"}
    assert first == {"schema_version": 1, "job": "recall"}


def test_reading_a_record_climbs_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(data: Any) -> dict[str, Any]:
        return migrated({**data, "notes": ["moved"]})

    monkeypatch.setattr(record_module, "migrated", older)
    kept = json.loads((DATA / "record-v1.json").read_text(encoding="utf-8"))
    assert from_json(kept).notes == ("moved",)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_a_newer_version_says_to_update(version: int) -> None:
    with pytest.raises(NewerVersionError, match=rf"is {version}, newer than this release, which reads 1 to .*update"):
        from_json({"schema_version": version})


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.0, True])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(ForeignJsonError, match=r"schema_version is .*; this release reads 1 to "):
        from_json({"schema_version": version})
