"""Rows of local files: text, JSON, CSV and parquet, alone or in a folder, as Arrow tables.

| ending | rows |
|---|---|
| `.txt`, `.md` | the file is one row; its column is `text` |
| `.jsonl`, `.ndjson`, `.json` | a JSON object for each line; a `.json` file may also hold one array of objects |
| `.csv`, `.tsv` | the rows below a header; every value is a text |
| `.parquet` | its rows |

A folder with entries named after a split (`test.jsonl`, `test-0.parquet`, `test/`) has the splits that it names. In any
other folder, all files below it are the test split, in the order of their paths. Hidden files are left out.
"""

from __future__ import annotations

import csv
import importlib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.names import unknown_name

if TYPE_CHECKING:
    from pyarrow import Table

TEXTS = (".txt", ".md")
"""Endings of files that are one row each."""

PARQUET = ".parquet"

TEXT_COLUMN = "text"
"""Column of a text file's one row."""

_SHARD = re.compile(r"-\d+(-of-\d+)?(-\w+)?$")
_MOST_NAMES = 20
"""Names beside a missing file up to which the error lists them all."""


def find_splits(path: Path, names: Mapping[str, str]) -> dict[str, tuple[Path, ...]]:
    """The files of each split, by its role; a single file is the role `test`.

    Args:
        path: A file or a folder.
        names: The name of each role's split; the role `test` is among them.

    Raises:
        ValueError: The path does not exist, no file of it can be read, or it has splits but not that of `test`.
    """
    if not path.exists():
        raise _missing(path)
    if path.is_file():
        return {"test": (_readable(path),)}
    found = {role: files for role, name in names.items() if (files := _named(path, name))}
    if "test" in found:
        return found
    if found or names["test"] != "test":
        present = sorted({_split_of(each) for each in path.iterdir() if _files(each)})
        raise unknown_name(f"split of {path}, given as test_split,", names["test"], present)
    if not (files := _files(path)):
        raise ValueError(f"file is {str(path)!r}, a folder without a file to read; allowed: {', '.join(READERS)}")
    return {"test": files}


def read_rows(files: Sequence[Path], columns: Sequence[str] | None = None) -> Table:
    """The rows of files, one file after the other, with some columns or all.

    Raises:
        ValueError: A file is not what its ending says, or a column has values of several kinds.
    """
    pyarrow: Any = importlib.import_module("pyarrow")
    tables = []
    for file in files:
        try:
            table = READERS[file.suffix.lower()](file)
            tables.append(table if columns is None else table.select([c for c in columns if c in table.column_names]))
        except (UnicodeDecodeError, pyarrow.ArrowException, csv.Error) as error:
            raise ValueError(f"{file} cannot be read as {file.suffix.lower()}: {error}") from error
    try:
        rows: Table = pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise ValueError(f"the files {files[0]} to {files[-1].name} have different columns: {error}") from error
    return rows


def are_parquet(files: Sequence[Path]) -> bool:
    """Whether files have their columns and number of rows in a footer, so that neither takes reading the rows."""
    return all(file.suffix.lower() == PARQUET for file in files)


def _named(folder: Path, split: str) -> tuple[Path, ...]:
    return tuple(file for each in sorted(folder.iterdir()) if _split_of(each) == split for file in _files(each))


def _split_of(entry: Path) -> str:
    """The split that an entry of a folder is named after: `test` for `test`, `test.jsonl` and `test-0-of-2.parquet`."""
    return _SHARD.sub("", entry.name if entry.is_dir() else entry.stem)


def _files(path: Path) -> tuple[Path, ...]:
    """A file that can be read, or all of them below a folder."""
    within = sorted(path.rglob("*")) if path.is_dir() else [path]
    hidden = (any(part.startswith(".") for part in file.relative_to(path.parent).parts) for file in within)
    pairs = zip(within, hidden, strict=True)
    return tuple(file for file, is_hidden in pairs if not is_hidden and file.suffix.lower() in READERS)


def _readable(file: Path) -> Path:
    if file.suffix.lower() not in READERS:
        raise ValueError(f"file is {str(file)!r}; allowed: a folder, or a file ending in {', '.join(READERS)}")
    return file


def _missing(path: Path) -> ValueError:
    """The error for a path that does not exist, with the nearest names in the deepest folder that does."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    name = path.relative_to(folder).parts[0]
    beside = [each.name for each in folder.iterdir() if each.is_dir() or each.suffix.lower() in READERS]
    error = unknown_name(f"file in {folder}, given as file,", name, beside)
    return error if len(beside) <= _MOST_NAMES else type(error)(str(error).partition(" (allowed: ")[0])


def _text(file: Path) -> Table:
    return _table({TEXT_COLUMN: [_decoded(file)]})


def _json(file: Path) -> Table:
    import msgspec

    content = _decoded(file)
    try:
        if file.suffix.lower() == ".json" and content.lstrip().startswith("["):
            rows = msgspec.json.decode(content, type=list[dict[str, Any]])
        else:
            rows = msgspec.json.Decoder(dict[str, Any]).decode_lines(content)
    except msgspec.DecodeError as error:
        raise ValueError(f"{file} does not hold a JSON object for each line: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    return _table({name: [row.get(name) for row in rows] for name in names})


def _csv(file: Path) -> Table:
    csv.field_size_limit(sys.maxsize)  # the default refuses values of more than 128 kB
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    rows = list(csv.reader(io.StringIO(_decoded(file), newline=""), delimiter=delimiter, strict=True))
    header = rows[0] if rows else []
    body = [row for row in rows[1:] if row]
    for place, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise ValueError(f"{file} has {len(row)} values in row {place}; its header has {len(header)}")
    return _table({name: [row[place] for row in body] for place, name in enumerate(header)})


def _parquet(file: Path) -> Table:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    table: Table = parquet.read_table(file)
    return table


def _table(columns: Mapping[str, Sequence[Any]]) -> Table:
    pyarrow: Any = importlib.import_module("pyarrow")
    table: Table = pyarrow.table(dict(columns))
    return table


def _decoded(file: Path) -> str:
    """A file's text, with its line ends as they are and without a byte order mark."""
    return file.read_bytes().decode("utf-8-sig")


READERS: Mapping[str, Callable[[Path], Table]] = {
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json),
    **dict.fromkeys((".csv", ".tsv"), _csv),
    PARQUET: _parquet,
}
"""The reader of each kind of file, by its ending."""
