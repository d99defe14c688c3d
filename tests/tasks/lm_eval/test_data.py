"""Data of lm-eval's tasks come from a mirror in any layout that `datasets` reads, and code of a data set never runs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.lm_eval.config import read_config
from hedgebench.tasks.lm_eval.data import Wanted, identify_data, load_data, wanted

from ..lm_eval_tiny import write_data, write_task

README = "---\nconfigs:\n- config_name: plain\n  data_files:\n  - split: test\n    path: {path}\n---\n"


@pytest.fixture
def mirror(sources: Sources) -> Path:
    assert sources.mirror is not None
    return sources.mirror


@pytest.mark.parametrize("config", ["plain", None])
def test_the_layout_of_mirrors_is_read_as_it_is(config: str | None, sources: Sources, mirror: Path) -> None:
    write_data(mirror, "a/b", "plain", "test", {"x": [1, 2, 3]})
    what = Wanted("a/b", config, ("test",))
    assert load_data(what, sources)["test"]["x"][:] == [1, 2, 3]
    identity = identify_data(what, sources)
    assert (identity.source, identity.splits, len(identity.fingerprint)) == ("mirror", {"test": 3}, 64)
    write_data(mirror, "a/b", "plain", "test", {"x": [1, 2, 4]})
    assert identify_data(what, sources).fingerprint != identity.fingerprint


@pytest.mark.parametrize("layout", ["plain", "readme", "own"])
def test_another_file_of_the_same_path_and_time_is_read_anew(
    layout: str, sources: Sources, mirror: Path, tmp_path: Path
) -> None:
    folder = mirror / "datasets" / "a" / "b"
    what = Wanted("a/b", "plain", ("test",))
    file = folder / "words.jsonl"
    if layout == "plain":
        file = folder / "plain" / "test-00000-of-00001.parquet"
    elif layout == "readme":
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(README.format(path=file.name), encoding="utf-8")
    else:
        file = tmp_path / "own.jsonl"
        what = Wanted("json", None, ("test",), {"data_files": {"test": str(file)}})
    fingerprints = set()
    for number in (5, 6):
        if layout == "plain":
            write_data(mirror, "a/b", "plain", "test", {"x": [number]})
        else:
            file.write_text(f'{{"x": {number}}}\n', encoding="utf-8")
        os.utime(file, ns=(10**18, 10**18))
        assert load_data(what, sources)["test"]["x"][:] == [number]
        fingerprints.add(identify_data(what, sources).fingerprint)
    assert len(fingerprints) == 2


def test_a_readme_that_reads_the_same_files_otherwise_is_another_data_set(sources: Sources, mirror: Path) -> None:
    folder = mirror / "datasets" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "words.csv").write_text("x;y\n1;2\n", encoding="utf-8")
    what, fingerprints = Wanted("a/b", "plain", ("test",)), set()
    for separator, columns in ((";", ["x", "y"]), (",", ["x;y"])):
        text = README.format(path="words.csv").removesuffix("---\n") + f'  sep: "{separator}"\n---\n'
        (folder / "README.md").write_text(text, encoding="utf-8")
        assert load_data(what, sources)["test"].column_names == columns
        fingerprints.add(identify_data(what, sources).fingerprint)
    assert len(fingerprints) == 2


def test_another_layout_is_read_by_its_readme(sources: Sources, mirror: Path) -> None:
    folder = mirror / "datasets" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "words.jsonl").write_text('{"x": 5}\n{"x": 6}\n', encoding="utf-8")
    (folder / "README.md").write_text(README.format(path="words.jsonl"), encoding="utf-8")
    what = Wanted("a/b", "plain", ("test",))
    assert load_data(what, sources)["test"]["x"][:] == [5, 6]
    assert identify_data(what, sources).source == "mirror"
    with pytest.raises(DataUnavailableError, match="it has test but no train"):
        load_data(Wanted("a/b", "plain", ("train",)), sources)
    with pytest.raises(DataUnavailableError, match="BuilderConfig 'other' not found"):
        load_data(Wanted("a/b", "other", ("test",)), sources)


def test_a_hubs_cache_is_read_without_the_network(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "datasets--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee", encoding="ascii")
    write_data(tmp_path, "x", "plain", "test", {"x": [7]})
    (repository / "snapshots").mkdir()
    (tmp_path / "datasets" / "x").rename(repository / "snapshots" / "c0ffee")
    what = Wanted("a/b", "plain", ("test",))
    assert load_data(what, sources)["test"]["x"][:] == [7]
    assert identify_data(what, sources).source == "hub"


@pytest.mark.parametrize("failure", ["timeout", "connection", "refusal", "system"])
def test_a_hub_that_fails_after_it_was_reached_is_told_as_missing_data(
    failure: str, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    (error,) = [make() for name, make in _hub_failures().items() if name == failure]
    monkeypatch.setattr("hedgebench.tasks.data.sources.hub_problem", lambda sources: None)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(DataUnavailableError, match=rf"hub: a/b \({type(error).__name__}\)"):
        identify_data(Wanted("a/b", None, ("test",)), sources)


def _hub_failures() -> dict[str, Callable[[], Exception]]:
    """Errors as huggingface_hub raises them, of the HTTP library that its own error is derived from."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    library: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    response: Any = library.Response(404, request=library.Request("GET", "https://example.org"))
    return {
        "timeout": lambda: library.ReadTimeout("too slow"),
        "connection": lambda: library.ConnectError("reset"),
        "refusal": lambda: RepositoryNotFoundError("no such repository", response=response),
        "system": lambda: ConnectionResetError("reset"),
    }


def test_files_that_a_task_names_itself_are_read(sources: Sources, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"x": 8}\n', encoding="utf-8")
    what = Wanted("json", None, ("test",), {"data_files": {"test": str(file)}})
    assert load_data(what, sources)["test"]["x"][:] == [8]
    assert identify_data(what, sources).source == "folder"
    gone = Wanted("json", None, ("test",), {"data_files": {"test": "https://example.org/x.jsonl"}})
    with pytest.raises(DataUnavailableError, match=r"not on this machine: https:/+example\.org/x\.jsonl"):
        identify_data(gone, sources)


@pytest.mark.parametrize(
    ("values", "shots", "splits"),
    [
        ({}, 0, ("test",)),
        ({}, 3, ("test", "train")),
        ({"test_split": None, "validation_split": "validation"}, 0, ("validation",)),
        ({"fewshot_split": "validation"}, 1, ("test", "validation")),
        ({"fewshot_config": {"split": "dev"}}, 1, ("test", "dev")),
        ({"fewshot_config": {"samples": [{"text": "a"}]}}, 1, ("test",)),
        ({"training_split": None}, 1, ("test",)),
    ],
)
def test_a_task_wants_the_splits_that_it_reads(
    values: dict[str, Any], shots: int, splits: tuple[str, ...], tmp_path: Path
) -> None:
    config = read_config(write_task(tmp_path, "choice", dataset_kwargs={"trust_remote_code": True}, **values))
    assert wanted(config, shots) == Wanted("tiny/words", "plain", splits)
