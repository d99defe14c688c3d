"""Tests of tasks/summarization/data.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from hedgebench.results.names import UnknownNameError
from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.summarization.data import SummaryData

NEWS = SummaryData("org/news", source="article", target="highlights")
SPLITS = ("train", "validation", "test")
Write = Callable[..., Path]


def articles(rows: int, first: str = "a") -> dict[str, list[str]]:
    return {"article": [f"{first}{i} long" for i in range(rows)], "highlights": [f"{first}{i}" for i in range(rows)]}


@pytest.fixture
def write(sources: Sources) -> Write:
    """Writes a split of `org/news` into the mirror."""

    def write(split: str, columns: dict[str, Any], config: str = "en") -> Path:
        assert sources.mirror is not None
        file = sources.mirror / "datasets" / NEWS.repo / config / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame(columns).to_parquet(file)
        return file

    return write


@pytest.fixture
def news(sources: Sources, write: Write) -> Sources:
    for split, rows in zip(SPLITS, (30, 6, 9), strict=True):
        write(split, articles(rows, split[0]))
    return sources


def test_the_only_configuration_of_a_mirror_is_found(news: Sources) -> None:
    identity = NEWS.identify(SPLITS, news, {"rouge": "1"})
    assert (identity.id, identity.source) == ("org/news/en", "mirror")
    assert identity.splits == {"train": 30, "validation": 6, "test": 9}
    assert identity.details == {"source": "article", "target": "highlights", "rouge": "1"}
    assert len(identity.fingerprint) == 64


def test_of_several_configurations_one_is_to_be_chosen(news: Sources, write: Write) -> None:
    for split in SPLITS:
        write(split, articles(2), config="de")
    with pytest.raises(ValueError, match="several configurations; set config to one of de, en"):
        NEWS.identify(SPLITS, news, {})
    assert replace(NEWS, config="de").identify(("test",), news, {}).splits == {"test": 2}


def test_test_rows_are_a_sample_in_their_order_and_training_rows_the_first_of_more(news: Sources) -> None:
    test, _ = NEWS.pairs("test", news, 4)
    assert [pair.place for pair in test] == sorted(pair.place for pair in test) != [0, 1, 2, 3]
    assert all(pair.target == f"t{pair.place}" and pair.source == f"t{pair.place} long" for pair in test)
    assert [pair.id for pair in test] == [str(pair.place) for pair in test]
    few, more = NEWS.pairs("train", news, 5)[0], NEWS.pairs("train", news)[0]
    assert few == more[:5]
    assert sorted(pair.place for pair in more) == list(range(30))


def test_a_column_of_ids_names_the_rows(news: Sources, write: Write) -> None:
    write("test", {**articles(3), "id": [700, 701, 702]})
    assert [pair.id for pair in NEWS.pairs("test", news)[0]] == ["700", "701", "702"]


def test_rows_without_text_or_summary_are_left_out_and_counted(news: Sources, write: Write) -> None:
    write("test", {"article": ["a", None, " \n", "d"], "highlights": ["A", "B", "C", ""]})
    pairs, empty = NEWS.pairs("test", news)
    assert ([pair.source for pair in pairs], empty) == (["a"], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source": "artcle"},
            "column of org/news in split t.*, given as source, 'artcle'; did you mean article.*article, highl",
        ),
        ({"target": "summary"}, r"given as target, 'summary' \(allowed: article, highlights\)"),
    ],
)
def test_an_unknown_column_is_told_with_those_there_are(news: Sources, change: dict[str, str], message: str) -> None:
    data = replace(NEWS, **change)
    with pytest.raises(UnknownNameError, match=message):
        data.identify(SPLITS, news, {})
    with pytest.raises(UnknownNameError, match=message):
        data.pairs("test", news)


def test_a_split_may_have_columns_of_its_own_and_several_summaries(news: Sources, write: Write) -> None:
    own = {"text": ["a", "b", "c"], "one": ["A", "", " "], "two": ["B", "C", None], "three": ["D", "E", None]}
    write("test", own)
    data = replace(NEWS, test_source="text", test_target="one+two+three")
    pairs, empty = data.pairs("test", news)
    assert [(pair.source, pair.references) for pair in pairs] == [("a", ("A", "B", "D")), ("b", ("C", "E"))]
    assert (pairs[0].target, empty) == ("A", 1)
    assert data.pairs("train", news) == NEWS.pairs("train", news)
    identity = data.identify(SPLITS, news, {})
    assert (identity.details["test_source"], identity.details["test_target"]) == ("text", "one+two+three")
    with pytest.raises(UnknownNameError, match="org/news in split test, given as test_target, 'tow'; did you mean two"):
        replace(data, test_target="one+tow").identify(SPLITS, news, {})
    with pytest.raises(UnknownNameError, match="org/news in split test, given as source, 'article'"):
        NEWS.identify(SPLITS, news, {})


def test_a_column_that_holds_no_text_is_refused(news: Sources, write: Write) -> None:
    write("test", {"article": ["a"], "highlights": [["A", "B"]]})
    with pytest.raises(ValueError, match=r"target is the column 'highlights' of org/news, which holds list.*text"):
        NEWS.identify(("test",), news, {})


def test_missing_data_says_where_it_was_looked_for_and_what_to_do(sources: Sources, write: Write) -> None:
    with pytest.raises(DataUnavailableError, match=r"org/news \(default\) is not available") as caught:
        NEWS.identify(SPLITS, sources, {})
    assert "there is no folder default" in str(caught.value)
    assert "no revision is pinned" in str(caught.value)
    assert "set revision=COMMIT" in str(caught.value)
    write("test", articles(2))
    with pytest.raises(DataUnavailableError, match="en has test but no train, validation"):
        NEWS.identify(SPLITS, sources, {})
    with pytest.raises(DataUnavailableError, match="hub: not asked, because offline was chosen"):
        replace(NEWS, revision="0" * 40).identify(SPLITS, sources, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": ""}, "dataset is not set"),
        ({"target": ""}, "target is not set"),
        ({"repo": "news"}, "dataset is 'news'; it takes ORG/NAME"),
        ({"repo": "../news"}, r"dataset is '\.\./news'"),
        ({"revision": "main"}, "revision is 'main'; it takes a commit"),
        ({"test": "train"}, "test_split is 'train'"),
        ({"test": "validation"}, "validation_split=none"),
    ],
)
def test_what_names_no_data_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(NEWS, **change)
