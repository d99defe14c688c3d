"""Tests of tasks/data/local_files.py."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from hedgebench.results.names import UnknownNameError
from hedgebench.tasks.data.local_files import find_splits, read_rows

ROLES = {"train": "train", "validation": "validation", "test": "test"}


def write(folder: Path, **files: str) -> Path:
    """Files by their names, in which `__` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content.encode())
    return folder


def rows(*files: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = read_rows(files).to_pylist()
    return found


def test_each_kind_of_file_has_its_rows(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        a__txt="\ufeffone\r\ntwo\n",
        b__jsonl='{"text": "x", "n": 1}\n\n{"text": "y", "more": [1, 2]}\n',
        c__json='[{"text": "x"}, {"text": "y"}]',
        d__csv='text,n\n"a, b",1\n"two\nlines",\n',
        e__tsv="text\tn\na, b\t1\n",
    )
    pandas.DataFrame({"text": ["x"], "n": [2]}).to_parquet(tmp_path / "f.parquet")
    assert rows(folder / "a.txt") == [{"text": "one\r\ntwo\n"}]
    assert rows(folder / "b.jsonl") == [{"text": "x", "n": 1, "more": None}, {"text": "y", "n": None, "more": [1, 2]}]
    assert rows(folder / "c.json") == [{"text": "x"}, {"text": "y"}]
    assert rows(folder / "d.csv") == [{"text": "a, b", "n": "1"}, {"text": "two\nlines", "n": ""}]
    assert rows(folder / "e.tsv") == [{"text": "a, b", "n": "1"}]
    assert rows(folder / "f.parquet") == [{"text": "x", "n": 2}]
    assert [row["text"] for row in rows(folder / "a.txt", folder / "c.json")] == ["one\r\ntwo\n", "x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{\n", "a.jsonl does not hold a JSON object for each line"),
        ("a.jsonl", b"[1]\n", "a.jsonl does not hold a JSON object for each line"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', "a.jsonl cannot be read as .jsonl"),
        ("a.txt", b"\xff\xfe", "a.txt cannot be read as .txt: 'utf-8' codec"),
        ("a.csv", b"a,b\n1\n", "a.csv has 1 values in row 1; its header has 2"),
        ("a.parquet", b"no", "a.parquet cannot be read as .parquet"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows(tmp_path / name)


def test_a_file_is_tested_and_a_folder_has_the_splits_that_it_names(tmp_path: Path) -> None:
    assert find_splits(write(tmp_path, x__txt="x") / "x.txt", ROLES) == {"test": (tmp_path / "x.txt",)}
    shards = write(tmp_path / "named", **{"train-1-of-2__jsonl": "", "train-0-of-2__jsonl": "", "notes__pdf": ""})
    write(shards / "test", b__txt="", a__txt="")
    found = find_splits(shards, ROLES)
    assert {role: [file.name for file in files] for role, files in found.items()} == {
        "train": ["train-0-of-2.jsonl", "train-1-of-2.jsonl"],
        "test": ["a.txt", "b.txt"],
    }


def test_all_files_of_another_folder_are_tested_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path, b__txt="", c__jpg="", **{".hidden__txt": ""})
    write(tmp_path / "a", z__md="")
    write(tmp_path / ".git", y__txt="")
    found = find_splits(tmp_path, ROLES)
    assert {role: [str(f.relative_to(tmp_path)) for f in files] for role, files in found.items()} == {
        "test": ["a/z.md", "b.txt"]
    }


def test_what_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "data", tickets__jsonl="", train__csv="", dev__csv="")
    with pytest.raises(UnknownNameError, match=r"given as file, 'ticket.jsonl'; did you mean tickets.jsonl"):
        find_splits(tmp_path / "data" / "ticket.jsonl", ROLES)
    with pytest.raises(UnknownNameError, match=r"unknown file in .*, given as file, 'dta'; did you mean data"):
        find_splits(tmp_path / "dta" / "tickets.jsonl", ROLES)
    with pytest.raises(UnknownNameError, match=r"given as test_split, 'test'.*dev, tickets, train"):
        find_splits(tmp_path / "data", ROLES)
    with pytest.raises(UnknownNameError, match=r"given as test_split, 'devv'; did you mean dev"):
        find_splits(tmp_path / "data", {"test": "devv"})
    with pytest.raises(ValueError, match=r"x.pdf'; allowed: a folder, or a file ending in .txt"):
        find_splits(write(tmp_path, x__pdf="") / "x.pdf", ROLES)
    with pytest.raises(ValueError, match="a folder without a file to read"):
        find_splits(write(tmp_path / "empty"), ROLES)


def test_a_missing_file_among_many_is_told_without_them_all(tmp_path: Path) -> None:
    write(tmp_path, **{f"page{i}__txt": "" for i in range(30)})
    with pytest.raises(UnknownNameError, match="did you mean") as told:
        find_splits(tmp_path / "pages.txt", ROLES)
    assert "allowed" not in str(told.value)
