"""Tests of tasks/data/own_rows.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.results.names import UnknownNameError
from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.data.own_rows import OwnData, in_hub_layout, nearest_datasets
from hedgebench.tasks.data.sources import read_split

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no data are named; set one of file=PATH and dataset=ORG/NAME"),
        ({"file": "a", "dataset": "a/b"}, "file is 'a' and dataset is 'a/b'"),
        ({"dataset": "notes"}, "dataset is 'notes'; it takes ORG/NAME"),
        ({"dataset": "a/b", "revision": "main"}, "it takes a commit of the hub in full"),
        ({"file": "a", "config": "x"}, "config and revision are of data sets of the hub"),
        ({"file": "a", "train": "test"}, "test_split is 'test', and so is train_split"),
    ],
)
def test_data_are_named_once(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnData(**values)


def test_a_data_set_has_the_splits_of_its_files(sources: Sources, write_split: Write) -> None:
    for split in ("train", "dev"):
        write_split("org/notes", "en", split, ["a", "b"])
    rows = OwnData(dataset="org/notes", test="dev").find(sources)
    assert list(rows.files) == ["train", "test"]
    assert rows.id == "org/notes/en"
    assert rows.read("test", "text").to_pydict() == {"text": ["a", "b"]}
    identity = rows.identity(sources, column="text", empty="")
    assert (identity.source, identity.splits, identity.details) == (
        "mirror",
        {"train": 2, "test": 2},
        {"column": "text"},
    )


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (OwnData(dataset="org/note"), "given as dataset, 'org/note'; did you mean org/notes"),
        (OwnData(dataset="org/notes"), "set config to one of de, en"),
        (OwnData(dataset="org/notes", config="dee"), "given as config, 'dee'; did you mean de"),
        (OwnData(dataset="org/notes", config="de"), r"split of org/notes \(de\), given as test_split, 'test'"),
    ],
)
def test_a_data_set_that_is_not_there_is_told_with_the_nearest(
    sources: Sources, write_split: Write, named: OwnData, message: str
) -> None:
    write_split("org/notes", "en", "test", ["a"])
    write_split("org/notes", "de", "train", ["a"])
    with pytest.raises(ValueError, match=message):
        named.find(sources)


def test_without_a_mirror_the_message_says_so_and_the_hub_is_not_asked(sources: Sources) -> None:
    with pytest.raises(UnknownNameError, match=r"none was given with --mirror DIR; hub: not asked; set revision"):
        OwnData(dataset="org/notes").find(replace(sources, mirror=None))
    assert nearest_datasets("org/notes", replace(sources, mirror=None)) == ""


def test_a_column_that_is_not_there_or_holds_no_text_is_refused(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "n": 1}\n', encoding="utf-8")
    rows = OwnData(file=str(tmp_path / "a.jsonl")).find(sources)
    rows.check_text("test", "column", "body")
    with pytest.raises(UnknownNameError, match=r"column of a.jsonl, given as column, 'bdy'; did you mean body"):
        rows.check_text("test", "column", "bdy")
    with pytest.raises(ValueError, match=r"column is the column 'n' of a.jsonl, which holds int64; allowed: text"):
        rows.check_text("test", "column", "n")


def test_the_fingerprint_is_that_of_content_and_reading_and_not_of_the_place(sources: Sources, tmp_path: Path) -> None:
    def fingerprint(place: str, content: str, **details: str) -> str:
        file = tmp_path / place / "a.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
        return OwnData(file=str(file)).find(sources).identity(sources, **details).fingerprint

    first = fingerprint("here", "text")
    assert fingerprint("there", "text") == first
    assert len({first, fingerprint("here", "other"), fingerprint("here", "text", column="body")}) == 3


def test_rows_in_the_layout_of_the_hub_are_read_as_any_data_set_and_written_once(
    sources: Sources, tmp_path: Path
) -> None:
    import pyarrow as pa

    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    rows = OwnData(file=str(tmp_path / "a.txt")).find(sources)
    made: list[str] = []
    own = rows.identity(sources, column="text")

    def make() -> pa.Table:
        made.append("test")
        return pa.table({"text": ["a", "b"]})

    for _ in range(2):
        dataset, there = in_hub_layout(rows, own, {"test": make}, replace(sources, mirror=None))
        assert read_split(dataset, "test", there)["text"][:] == ["a", "b"]
    assert made == ["test"]


def test_rows_that_change_while_they_are_read_are_not_kept(sources: Sources, tmp_path: Path) -> None:
    import pyarrow as pa

    file = tmp_path / "a.txt"
    file.write_text("a", encoding="utf-8")
    rows = OwnData(file=str(file)).find(sources)

    def make() -> pa.Table:
        file.write_text("b", encoding="utf-8")
        return pa.table({"text": ["b"]})

    with pytest.raises(DataUnavailableError, match=r"a.txt changed while it was read; start the run again"):
        in_hub_layout(rows, rows.identity(sources), {"test": make}, sources)
    assert not list(sources.cache.rglob("*.parquet"))


def test_a_revision_in_the_hubs_cache_is_read(
    sources: Sources, write_split: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0" * 40
    snapshot = tmp_path / "hub" / "datasets--org--notes" / "snapshots" / commit
    write_split("org/notes", "en", "test", ["a"], root=snapshot)
    rows = OwnData(dataset="org/notes", revision=commit).find(sources)
    assert (rows.source, list(rows.files)) == ("hub", ["test"])
    assert rows.identity(sources).revision == commit
