"""Tests of tasks/language/any_data.py: the same documents give the same numbers, wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgebench.adapters.base import Settings
from hedgebench.results.record import Metric
from hedgebench.tasks.base import BackboneTokenizer, Sources, Task
from hedgebench.tasks.data.own_rows import OwnData
from hedgebench.tasks.language.any_data import PERPLEXITY, OwnCorpus
from hedgebench.tasks.language.wikitext import REPO, WIKITEXT2, split_articles
from hedgebench.tasks.own_data import Decided

BYTES: Settings = {"context_length": 24, "stride": 8, "tokenizer": "byte", "test_bytes": 6_000}
HEADING = r"^ = [^=].*[^=] = $|^ = [^=] = $"


@pytest.fixture(params=["tiny", "real"])
def pretrained(request: pytest.FixtureRequest, sources: Sources, write_split: Callable[..., Path]) -> Sources:
    """Three articles in the place of WikiText-2, and the real ones, for a pretrained backbone."""
    lines = [row for name in "abc" for row in ("", f" = {name} = \n", "", f" {name} is a letter . \n" * 9)]
    write_split(REPO, "wikitext-2-v1", "test", lines)
    mirror = sources.mirror if request.param == "tiny" else request.getfixturevalue("real_mirror")
    return replace(sources, mirror=mirror, tokenizer=BackboneTokenizer("tiny", "x"))


def measure(task: Task, settings: Settings, sources: Sources, model: Callable[..., Any]) -> list[Metric]:
    """The metrics of a model that expects each byte to follow a few others."""

    def log_probs(context: list[int]) -> Any:
        scores = np.cos(np.arange(257) * (1 + sum(context[-3:]) % 13))
        return scores - np.log(np.exp(scores).sum())

    _, adapter = model(257, settings["context_length"], log_probs)
    return task.score(task.predict(adapter, task.load(settings, sources), settings), settings)


def articles(mirror: Path) -> list[str]:
    import pandas

    folder = mirror / "datasets" / REPO / "wikitext-2-v1"
    (file,) = folder.glob("test-*.parquet")
    return [document.text for document in split_articles(pandas.read_parquet(file)["text"].tolist())]


def write_lines(folder: Path, texts: list[str]) -> Path:
    file = folder / "articles.jsonl"
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts), encoding="utf-8")
    return file


def write_texts(folder: Path, texts: list[str]) -> Path:
    for i, text in enumerate(texts):
        (folder / f"{i:03}.txt").write_bytes(text.encode())
    return folder


def write_parquet(folder: Path, texts: list[str]) -> Path:
    import pandas

    file = folder / "articles.parquet"
    pandas.DataFrame({"body": texts}).to_parquet(file)
    return file


@pytest.mark.parametrize("write", [write_lines, write_texts, write_parquet])
@pytest.mark.parametrize("joined", [True, False])
def test_the_text_of_wikitext2_has_the_measures_of_wikitext2(
    pretrained: Sources, window_model: Callable[..., Any], tmp_path: Path, write: Callable[..., Path], joined: bool
) -> None:
    assert pretrained.mirror is not None
    folder = tmp_path / "own"
    folder.mkdir()
    settings: dict[str, Any] = {**BYTES, "join_documents": joined}
    theirs = measure(WIKITEXT2, {**settings, "train_bytes": 0}, pretrained, window_model)
    column = "text" if write is write_texts else "body"
    file = str(write(folder, articles(pretrained.mirror)))
    own = measure(PERPLEXITY, {**settings, "file": file, "column": column}, pretrained, window_model)
    assert {metric.name for metric in own} == {"perplexity", "word_perplexity", "bits_per_byte", "tokens"}
    assert own == theirs


def test_the_rows_of_a_data_set_are_cut_where_a_document_starts(pretrained: Sources) -> None:
    assert pretrained.mirror is not None
    named = OwnData(dataset=REPO, config="wikitext-2-v1", train=None)
    lines = OwnCorpus(named).documents("test", pretrained)
    whole = articles(pretrained.mirror)
    documents = OwnCorpus(named, document_start=HEADING).documents("test", pretrained)
    assert len(lines) > 3 * len(whole)
    assert "".join(each.text for each in documents) == "".join(whole)
    # A few lines of tables look like headings, which `wikitext2` tells from them by the empty lines around.
    assert len(whole) <= len(documents) < len(whole) + 10


def test_a_text_file_is_one_document_or_cut_at_its_lines(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# one\nfirst\n# two\nsecond\n", encoding="utf-8")
    settings = {**BYTES, "file": str(tmp_path / "a.txt")}
    there = replace(sources, tokenizer=BackboneTokenizer("tiny", "x"))
    assert [d.bytes for d in PERPLEXITY.load(settings, there).test.documents] == [25]
    cut = PERPLEXITY.load({**settings, "document_start": "^# "}, there)
    assert [bytes(d.tokens.tolist()).decode() for d in cut.test.documents] == ["# one\nfirst\n", "# two\nsecond\n"]
    assert PERPLEXITY.identify({**settings, "document_start": "^# "}, there).fingerprint != (
        PERPLEXITY.identify(settings, there).fingerprint
    )


def test_a_folder_of_splits_trains_a_model_and_its_tokenizer(sources: Sources, tmp_path: Path) -> None:
    for split, rows in (("train", 60), ("validation", 10), ("test", 10)):
        texts = [f"{split} text {i} of many words" for i in range(rows)]
        (tmp_path / f"{split}.txt").write_text("\n".join(texts), encoding="utf-8")
    settings: Settings = {"context_length": 16, "tokenizer": "bpe:300", "file": str(tmp_path)}
    identity, data = PERPLEXITY.identify(settings, sources), PERPLEXITY.load(settings, sources)
    assert identity.splits == {"train": 1, "validation": 1, "test": 1}
    assert identity.details["tokenizer"] == "bpe:300"
    assert data.train is not None
    assert data.validation is not None
    assert all(document.unigram_nll_nats is not None for document in data.test.documents)


def test_documents_left_out_are_noted(sources: Sources, tmp_path: Path) -> None:
    file = write_lines(tmp_path, ["four words are here", "", "and here"])
    there = replace(sources, tokenizer=BackboneTokenizer("tiny", "x"))
    settings = {**BYTES, "file": str(file), "column": "body", "test_bytes": 20}
    assert "test_bytes=20 takes the first 1 of 2 documents; none takes all" in PERPLEXITY.load(settings, there).notes
    assert not PERPLEXITY.load({**settings, "test_bytes": None}, there).notes


def test_without_a_training_split_nothing_is_trained(sources: Sources, tmp_path: Path) -> None:
    assert isinstance(PERPLEXITY, Decided)
    file = write_lines(tmp_path, ["some words"])
    settings = {**BYTES, "file": str(file), "column": "body"}
    assert PERPLEXITY.decided(settings, None).info.recipes == ("zero-shot",)
    assert PERPLEXITY.decided({**settings, "file": str(tmp_path / "none.txt")}, None).info.recipes[0] == "scratch"
    with pytest.raises(ValueError, match="no training split that is read, and the backbone is trained from scratch"):
        PERPLEXITY.identify(settings, sources)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"column": "text"}, "given as column, 'text'"),
        ({"document_start": "("}, r"document_start is '\('; it takes a regular expression"),
        ({"stride": 99}, "stride is 99; allowed: 1 to 24"),
        ({"column": "blank"}, "column 'blank' of articles.jsonl has no word"),
        ({"file": ""}, "no data are named"),
    ],
)
def test_wrong_names_are_told_before_anything_runs(
    sources: Sources, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    file = tmp_path / "articles.jsonl"
    file.write_text('{"body": "a b", "blank": " "}\n', encoding="utf-8")
    there = replace(sources, tokenizer=BackboneTokenizer("tiny", "x"))
    with pytest.raises(ValueError, match=message):
        PERPLEXITY.identify({**BYTES, "file": str(file), "column": "body", **changed}, there)


def test_settings_are_those_of_the_task_it_follows() -> None:
    for scale, declared in WIKITEXT2.info.scales.items():
        assert PERPLEXITY.info.scales[scale].settings.items() >= declared.settings.items()
