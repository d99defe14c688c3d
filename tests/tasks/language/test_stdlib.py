"""Tests of tasks/language/stdlib.py."""

from __future__ import annotations

import platform
import time

import pytest

from hedgebench.tasks.base import DataUnavailableError, Sources, Task
from hedgebench.tasks.language.stdlib import STDLIB, StandardLibrary, read_files, split_of


def test_it_is_a_task() -> None:
    assert isinstance(STDLIB, Task)


def test_splits_are_nine_to_one_and_disjoint(sources: Sources) -> None:
    names = {
        split: [document.name for document in StandardLibrary().documents(split, sources)]
        for split in ("train", "validation", "test")
    }
    sizes = {split: len(each) for split, each in names.items()}
    assert sum(sizes.values()) == len(set().union(*names.values())) == len(read_files())
    assert 0.85 < sizes["train"] / sum(sizes.values()) < 0.95
    assert min(sizes.values()) >= 5
    assert all(each == sorted(each) for each in names.values())


def test_a_split_depends_on_the_name_alone() -> None:
    assert [split_of(name) for name in ("ast.py", "json/decoder.py", "asyncio/trsock.py")] == ["test", "train", "test"]


def test_tests_tables_and_installed_packages_are_left_out() -> None:
    folders = {part for name in read_files() for part in name.split("/")[:-1]}
    assert not folders & {"test", "site-packages", "encodings", "idlelib", "__pycache__"}
    assert "json" in folders


def test_the_identity_names_the_python_version(sources: Sources) -> None:
    identity = STDLIB.identify(STDLIB.info.scales["smoke"].settings, sources)
    assert (identity.source, identity.revision) == ("embedded", platform.python_version())
    assert identity.details["tokenizer"] == "bpe:1024"


def test_identifying_is_quick(sources: Sources) -> None:
    STDLIB.identify(STDLIB.info.scales["smoke"].settings, sources)
    started = time.process_time()
    STDLIB.identify(STDLIB.info.scales["smoke"].settings, sources)
    assert time.process_time() - started < 0.5


def test_a_python_without_sources_is_an_error(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("lib")
    monkeypatch.setattr("hedgebench.tasks.language.stdlib.read_files", read_files.__wrapped__)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(empty)})
    with pytest.raises(DataUnavailableError, match=r"keeps \.py files"):
        StandardLibrary().identify(["test"], sources)
