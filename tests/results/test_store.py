from __future__ import annotations

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgebench.results.foreign import parse_json
from hedgebench.results.record import (
    STATUSES,
    CurvePoint,
    DataIdentity,
    Failure,
    KernelUse,
    Metric,
    Record,
    from_json,
)
from hedgebench.results.report.html import ReportContent, report_html
from hedgebench.results.store import CorruptCell, RunStore, StoreError
from hedgebench.results.tables.leaderboard import leaderboard_csv, leaderboard_markdown

MakeRecord = Callable[..., Record]

WRITER = """
import sys
from pathlib import Path
from hedgebench.results.record import Metric, Record
from hedgebench.results.store import RunStore
store = RunStore(Path(sys.argv[1]))
print("ready", flush=True)
for i in range(10**9):
    metrics = tuple(Metric("m", float(i), "1", None, None, 1) for _ in range(2000))
    names = ("r", f"cell{i % 3}", "m", "b", "t", "r", "s")
    store.write_record(Record(1, *names, 0, "ok", "m", metrics, {}, {}, (), None, {}))
"""

integers = st.integers(-(2**63), 2**63 - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | st.text()
numbers = st.floats(allow_nan=False)
mappings = st.dictionaries(st.text(), scalars, max_size=3)
metrics = st.builds(
    Metric,
    name=st.text(),
    value=st.none() | numbers,
    unit=st.text(),
    higher_is_better=st.none() | st.booleans(),
    stderr=st.none() | numbers,
    n=integers,
    at=mappings,
    status=st.sampled_from(STATUSES),
    samples=st.lists(numbers, max_size=3).map(tuple),
)
records = st.builds(
    Record,
    schema_version=st.just(1),
    cell_id=st.from_regex(r"[a-f0-9]{16}", fullmatch=True),
    seed=integers,
    limit=st.none() | integers,
    status=st.sampled_from(STATUSES),
    metrics=st.lists(metrics, max_size=2).map(tuple),
    settings=st.dictionaries(st.text(), scalars | st.lists(integers, max_size=2).map(tuple), max_size=3),
    timings_s=st.dictionaries(st.text(), numbers, max_size=2),
    kernels=st.lists(st.builds(KernelUse), max_size=2).map(tuple),
    data=st.none() | st.builds(DataIdentity, splits=st.dictionaries(st.text(), integers, max_size=2), details=mappings),
    environment=mappings,
    error=st.none() | st.builds(Failure),
    curves=st.lists(st.builds(CurvePoint, step=integers, value=numbers), max_size=2).map(tuple),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "run")
    store.create()
    return store


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=records)
def test_a_record_comes_back_as_it_was_written(store: RunStore, record: Record) -> None:
    store.write_record(record)
    assert from_json(parse_json((store.cells / f"{record.cell_id}.json").read_bytes())) == record


def test_records_come_in_the_same_order_whatever_the_order_of_writing(store: RunStore, showcase: list[Record]) -> None:
    for record in showcase:
        store.write_record(record)
    first = store.records().records
    for record in reversed(showcase):
        store.write_record(record)
    assert store.records().records == first
    assert len(first) == len(showcase)


def test_writing_a_cell_again_replaces_it(store: RunStore, make_record: MakeRecord) -> None:
    record = make_record()
    store.write_record(record)
    store.write_record(replace(record, notes=("again",)))
    assert [r.notes for r in store.records().records] == [("again",)]
    assert [path.suffix for path in store.cells.iterdir()] == [".json"]


def test_a_killed_writer_leaves_only_whole_files(store: RunStore) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        end = time.monotonic() + 60  # a machine that is busy elsewhere gives the writer its turn late
        while not any(store.cells.glob("*.json")) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.15)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        loaded = store.records()
        assert loaded.records
        assert not loaded.corrupt
        assert all(len(record.metrics) == 2000 for record in loaded.records)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON: Expecting value"),
        ('{"schema_version": 1, "run_id"', "not JSON: Expecting ':' delimiter"),
        ("[]", "a record is a JSON object, not list"),
        ('{"schema_version": "1"}', "schema_version is '1'"),
        ('{"schema_version": 1}', "record lacks"),
        (b"\xff\xfe\x00", "can't decode byte"),
    ],
)
def test_a_corrupt_file_is_reported_and_counts_as_missing(
    store: RunStore, make_record: MakeRecord, content: str | bytes, reason: str
) -> None:
    good = make_record()
    store.write_record(good)
    broken = store.cells / "broken.json"
    broken.write_bytes(content.encode() if isinstance(content, str) else content)
    loaded = store.records()
    assert loaded.records == (good,)
    assert [cell.path for cell in loaded.corrupt] == [broken]
    assert reason in loaded.corrupt[0].reason


def test_a_newer_releases_record_is_an_error_and_not_corrupt(store: RunStore) -> None:
    (store.cells / "newer.json").write_text('{"schema_version": 99}')
    with pytest.raises(StoreError, match=r"newer\.json: schema_version is 99, newer than this release.*update"):
        store.records()


def test_a_file_under_another_cells_name_is_corrupt(store: RunStore, make_record: MakeRecord) -> None:
    store.write_record(make_record())
    (path,) = store.cells.glob("*.json")
    path.rename(path.with_name("other.json"))
    assert "is named other" in store.records().corrupt[0].reason


def test_setting_a_corrupt_file_aside_keeps_it_and_frees_its_cell(store: RunStore) -> None:
    (store.cells / "broken.json").write_text("{")
    (corrupt,) = store.records().corrupt
    target = store.set_aside(corrupt)
    assert target.name == "broken.json.corrupt"
    assert target.read_text() == "{"
    assert store.records().corrupt == ()


def test_samples_come_back_as_they_were_numbers_that_are_not_finite_too(store: RunStore) -> None:
    row = {"text": "naïve\n", "logprobs": [float("-inf"), 1.5], "answer": "nan"}
    store.write_samples("cell", ({"i": i, **row} for i in range(3)))
    assert list(store.read_samples("cell")) == [{"i": i, **row} for i in range(3)]
    store.write_samples("cell", [{"logprob": float("nan")}])
    (read,) = store.read_samples("cell")
    assert math.isnan(read["logprob"])


def test_samples_are_read_compressed_too_unless_newer_ones_stand_beside_them(store: RunStore) -> None:
    path, compressed = store.samples / "cell.jsonl", store.samples / "cell.jsonl.gz"
    store.write_samples("cell", [{"i": 1}])
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert list(store.kept_samples("cell")) == [{"i": 1}]
    store.write_samples("cell", [{"i": 2}])
    assert list(store.kept_samples("cell")) == [{"i": 2}]
    path.unlink()
    for damaged in (compressed.read_bytes()[:-9], b"{}\n"):
        compressed.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"cannot read the samples of cell cell from .*cell\.jsonl\.gz"):
            list(store.read_samples("cell"))


def test_samples_that_break_off_leave_nothing_behind(store: RunStore) -> None:
    def rows() -> object:
        yield {"i": 0}
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="broke"):
        store.write_samples("cell", rows())  # type: ignore[arg-type]
    assert list(store.samples.iterdir()) == []
    with pytest.raises(StoreError, match="cannot read the samples of cell cell"):
        list(store.read_samples("cell"))


def test_the_manifest_is_json(store: RunStore) -> None:
    store.write_manifest({"models": ["softmax"], "schema_version": 1, "worst": float("inf")})
    assert json.loads(store.manifest.read_text()) == {"models": ["softmax"], "schema_version": 1, "worst": "inf"}


def test_an_unwritable_folder_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write results to .*file/run.*choose another folder with --output"):
        RunStore(tmp_path / "file" / "run").create()


def test_creating_a_run_again_keeps_its_records(store: RunStore, make_record: MakeRecord) -> None:
    store.write_record(make_record())
    store.create()
    assert len(store.records().records) == 1


@pytest.mark.parametrize("cell_id", ["../x", "", "a/b", ".hidden", "a b"])
def test_a_cell_id_that_is_no_file_name_is_refused(store: RunStore, make_record: MakeRecord, cell_id: str) -> None:
    with pytest.raises(StoreError, match="cannot be a file name"):
        store.write_record(make_record(cell_id=cell_id))


def test_an_empty_or_missing_run_has_no_records(tmp_path: Path) -> None:
    assert RunStore(tmp_path / "nothing").records().records == ()


def test_a_corrupt_cell_has_a_path_and_a_reason(tmp_path: Path) -> None:
    assert CorruptCell(tmp_path, "why").reason == "why"


@pytest.mark.slow
def test_ten_thousand_records_load_and_render_in_two_seconds(store: RunStore, make_record: MakeRecord) -> None:
    """Of a hundred models on ten tasks with ten seeds: read, and made a leaderboard twice and a page without plots."""
    for i in range(10_000):
        where = f"model{i % 100}", f"task{i // 1000}", i // 100 % 10
        store.write_record(make_record(*where, cell_id=f"{i:016x}"))
    start = time.process_time()
    records = store.records().records
    assert len(records) == 10_000
    assert leaderboard_markdown(records).count("model7") > 0
    assert leaderboard_csv(records).count("\r\n") == 1_001
    assert len(report_html(ReportContent(records), [])) > 100_000
    assert time.process_time() - start < 2


def test_importing_the_folder_imports_neither_torch_nor_what_is_slow() -> None:
    root = Path(__file__).parents[2]
    files = sorted((root / "results").rglob("*.py"))
    modules = [".".join(("hedgebench", *file.relative_to(root).with_suffix("").parts)) for file in files]
    assert len(modules) > 30
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'scipy', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout.strip() == "[]"


def test_importing_the_store_does_not_import_numpy() -> None:
    code = "import sys, hedgebench.results.store; print('numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_folder_is_held_by_one_run_at_a_time_and_free_afterwards(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.held(), pytest.raises(StoreError, match=rf"process {os.getpid()} is running in .*--output DIR"):  # noqa: SIM117
        with RunStore(tmp_path).held():
            pass
    with store.held():
        pass


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_that_is_no_file_is_told_and_not_followed(tmp_path: Path, kind: str) -> None:
    store, target = RunStore(tmp_path / "run"), tmp_path / "target"
    store.create()
    target.write_text("kept", encoding="utf-8")
    lock = store.root / ".lock"
    lock.symlink_to(target) if kind == "link" else lock.mkdir()
    told = r"cannot lock .*\.lock: (a symbolic link|Is a directory); take it away"
    with pytest.raises(StoreError, match=told), store.held():
        pass
    assert target.read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("damage", [b'{"a": 1}\n{"a"', b"\xff", b"[" * 100_000, b"1" + b"0" * 400, None])
def test_damaged_predictions_are_none_until_they_are_mended_and_named(
    tmp_path: Path, make_record: MakeRecord, damage: bytes | None
) -> None:
    store = RunStore(tmp_path)
    records = [make_record(cell_id=name) for name in ("whole", "damaged", "without")]
    for name in ("whole", "damaged"):
        store.write_samples(name, [{"a": 1}])
    file = store.samples / "damaged.jsonl"
    file.unlink()
    file.mkdir() if damage is None else file.write_bytes(damage)
    assert [list(store.kept_samples(record.cell_id)) for record in records] == [[{"a": 1}], [], []]
    (corrupt,) = store.damaged_samples(records)
    assert corrupt.path == file
    assert store.set_aside(corrupt).name == "damaged.jsonl.corrupt"
    assert store.damaged_samples(records) == ()
    store.write_samples("damaged", [{"a": 2}])
    assert list(store.kept_samples("damaged")) == [{"a": 2}]
