"""Tests of tasks/language/wikitext.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.adapters.base import Settings
from hedgebench.tasks.base import DataUnavailableError, Sources, Task
from hedgebench.tasks.language.wikitext import REPO, WIKITEXT2, WIKITEXT103, split_articles

LINES = [
    "", " = First @-@ one = \n", "", " Some text . \n", "", " = = Section = = \n", "", " a = b \n",
    " = not a heading = \n", "", " = Second = \n", "", " Other text . \n",
]  # fmt: skip


@pytest.fixture
def wikitext(sources: Sources, write_split: Callable[..., Path]) -> Sources:
    for split in ("train", "validation", "test"):
        write_split(REPO, "wikitext-2-v1", split, [*LINES, " filler \n" * 200])
    return sources


def test_they_are_tasks() -> None:
    assert isinstance(WIKITEXT2, Task)
    assert isinstance(WIKITEXT103, Task)


def test_articles_begin_at_level_one_headings_between_empty_lines() -> None:
    first, second = split_articles(LINES)
    assert (first.name, second.name) == ("First @-@ one", "Second")
    assert first.text + second.text == "".join(LINES)
    assert second.text.startswith(" = Second = \n")


def test_text_without_headings_is_one_article() -> None:
    (article,) = split_articles([" a \n", " b \n"])
    assert (article.name, article.text) == ("", " a \n b \n")


def test_no_lines_have_no_text() -> None:
    assert "".join(article.text for article in split_articles([])) == ""


def test_a_tiny_mirror_can_be_loaded(wikitext: Sources) -> None:
    settings: Settings = {"context_length": 32, "tokenizer": "bpe:300"}
    identity, data = WIKITEXT2.identify(settings, wikitext), WIKITEXT2.load(settings, wikitext)
    assert identity.id == f"{REPO}/wikitext-2-v1"
    assert identity.details["tokenizer"] == "bpe:300"
    assert [document.name for document in data.test.documents] == ["First @-@ one", "Second"]


def test_wikitext103_without_a_training_split_says_exactly_that(real_mirror: Path, sources: Sources) -> None:
    settings = WIKITEXT103.info.scales["small"].settings
    with pytest.raises(DataUnavailableError, match="wikitext-103-v1 has validation, test but no train"):
        WIKITEXT103.identify(settings, replace(sources, mirror=real_mirror))


def test_wikitext2_has_sixty_test_articles(real_mirror: Path, sources: Sources) -> None:
    articles = WIKITEXT2.corpus.documents("test", replace(sources, mirror=real_mirror))
    assert len(articles) == 60
    assert articles[0].name == "Robert <unk>"
    words_and_line_ends = sum(len(article.text.split()) + article.text.count("\n") for article in articles)
    assert 240_000 < words_and_line_ends <= 245_569
