"""Tests of tasks/data/sources.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.data.sources import DatasetId, find_dataset, identify_dataset, read_split

TINY = DatasetId("org/tiny", "plain", "a" * 40, ("train", "test"))
Write = Callable[..., Path]


def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def test_the_mirror_is_read_and_fingerprinted(sources: Sources, write_split: Write) -> None:
    write_split("org/tiny", "plain", "train", ["a", "b", "c"])
    write_split("org/tiny", "plain", "test", ["d"])
    identity = identify_dataset(TINY, sources, {"tokenizer": "byte"})
    assert (identity.id, identity.source, identity.revision) == ("org/tiny/plain", "mirror", "")
    assert identity.splits == {"train": 3, "test": 1}
    assert identity.details == {"tokenizer": "byte"}
    assert list(read_split(TINY, "train", sources)["text"]) == ["a", "b", "c"]


def test_the_fingerprint_follows_the_used_splits_alone(sources: Sources, write_split: Write) -> None:
    write_split("org/tiny", "plain", "train", ["a"])
    write_split("org/tiny", "plain", "test", ["b"])
    before = identify_dataset(TINY, sources).fingerprint
    write_split("org/tiny", "plain", "validation", ["unused"])
    assert identify_dataset(TINY, sources).fingerprint == before
    write_split("org/tiny", "plain", "test", ["c"])
    assert identify_dataset(TINY, sources).fingerprint != before


def test_a_changed_mirror_is_read_anew(sources: Sources, write_split: Write) -> None:
    write_split("org/tiny", "plain", "train", ["a"])
    write_split("org/tiny", "plain", "test", ["b"])
    assert list(read_split(TINY, "test", sources)["text"]) == ["b"]
    write_split("org/tiny", "plain", "test", ["c", "d"])
    assert list(read_split(TINY, "test", sources)["text"]) == ["c", "d"]


def test_another_file_of_the_same_path_size_and_time_is_read_anew(sources: Sources, write_split: Write) -> None:
    write_split("org/tiny", "plain", "train", ["a"])
    file = write_split("org/tiny", "plain", "test", ["one", "two"])
    before = file.stat()
    assert list(read_split(TINY, "test", sources)["text"]) == ["one", "two"]
    identity = identify_dataset(TINY, sources)
    write_split("org/tiny", "plain", "test", ["new", "row"])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert identify_dataset(TINY, sources).fingerprint != identity.fingerprint
    assert list(read_split(TINY, "test", sources)["text"]) == ["new", "row"]


def test_the_cache_of_the_hub_is_read_where_the_mirror_lacks_the_data(
    sources: Sources, write_split: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "datasets--org--tiny" / "snapshots" / TINY.revision
    for split in TINY.splits:
        write_split("org/tiny", "plain", split, [f"cached {split}"], root=snapshot)
    identity = identify_dataset(TINY, sources)
    assert (identity.source, identity.revision, identity.fingerprint) == ("hub", TINY.revision, TINY.revision)
    assert list(read_split(TINY, "test", sources)["text"]) == ["cached test"]


def test_a_missing_split_is_named_with_those_that_are_there(sources: Sources, write_split: Write) -> None:
    write_split("org/tiny", "plain", "test", ["b"])
    with pytest.raises(DataUnavailableError, match=r"org/tiny \(plain\) is not available") as caught:
        identify_dataset(TINY, sources)
    message = str(caught.value)
    assert f"mirror {sources.mirror}/datasets/org/tiny: plain has test but no train" in message
    assert "offline was chosen" in message
    assert "--mirror DIR" in message


def test_an_unreachable_hub_is_an_error_within_seconds(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable_hub(monkeypatch)
    started = time.perf_counter()
    with pytest.raises(DataUnavailableError, match=r"http://127\.0\.0\.1:9 is not reachable"):
        identify_dataset(TINY, replace(sources, offline=False, mirror=None))
    assert time.perf_counter() - started < 6


def test_a_reachable_hub_is_named_by_its_revision_without_a_download(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgebench.tasks.data.sources.hub_problem", lambda sources: None)
    identity = identify_dataset(TINY, sources)
    assert (identity.source, identity.fingerprint, identity.splits) == ("hub", TINY.revision, {})


def test_an_undeclared_split_is_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match="not with 'dev'"):
        read_split(TINY, "dev", sources)


def test_the_hub_is_not_asked_for_what_is_not_pinned(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgebench.tasks.data.sources.hub_problem", lambda sources: pytest.fail("the hub was asked"))
    with pytest.raises(DataUnavailableError, match="hub: not asked, as no revision is pinned") as caught:
        find_dataset(replace(TINY, revision=""), sources)
    assert "hub cache" not in str(caught.value)
    assert "set revision=COMMIT" in str(caught.value)
