"""What a data task costs: a module of at most 36 lines, with `TextClassification` or `Perplexity`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.base import Settings
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.language.wikitext import REPO

IMDB = '''"""Large Movie Review Dataset: is a film review positive?"""

from __future__ import annotations

from hedgebench.tasks.classification.text_classification import TextClassification, text_info
from hedgebench.tasks.data.sources import DatasetId

DATA = DatasetId("stanfordnlp/imdb", "plain_text", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", ("train", "test"))

IMDB = TextClassification(
    text_info(
        name="imdb",
        summary="Is the film review positive? (accuracy)",
        main_metric="accuracy",
        data=(DATA.pinned,),
        licence="that of the original data set",
        citation="Maas et al., Large Movie Review Dataset, ACL 2011",
    ),
    DATA,
    columns=("text",),
    metrics=("accuracy",),
    test_splits={"test": ""},
)
'''
RAW = '''"""WikiText-2 with all its words: perplexity on Wikipedia articles before rare words became `<unk>`."""

from __future__ import annotations

from hedgebench.tasks.data.documents import HubCorpus
from hedgebench.tasks.data.sources import DatasetId
from hedgebench.tasks.language.perplexity import Perplexity, corpus_info
from hedgebench.tasks.language.wikitext import REPO, REVISION, split_articles

DATA = DatasetId(REPO, "wikitext-2-raw-v1", REVISION)

WIKITEXT2_RAW = Perplexity(
    corpus_info(
        name="wikitext2_raw",
        summary="Perplexity on WikiText-2 with all its words",
        data=(DATA.pinned,),
        licence="CC BY-SA 3.0",
        citation="Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843",
    ),
    HubCorpus(DATA, to_documents=split_articles),
)
'''


def declared(source: str) -> Task:
    """The one task that a module of this source declares."""
    module: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "example.py", "exec"), module)
    (task,) = (value for value in module.values() if isinstance(value, Task) and not isinstance(value, type))
    return task


@pytest.mark.parametrize("source", [IMDB, RAW])
def test_a_data_task_takes_few_lines(source: str) -> None:
    assert len(source.splitlines()) <= 36
    assert set(declared(source).info.scales) == {"smoke", "small", "paper"}


def test_a_data_set_is_classified_by_its_declaration_alone(real_mirror: Path, sources: Sources) -> None:
    task = declared(IMDB)
    settings: Settings = {"tokenizer": "byte", "max_length": 32, "train_rows": 20, "test_rows": 10}
    data = task.load(settings, replace(sources, mirror=real_mirror))
    assert data.train is not None
    assert len(data.train) == 20
    (split,) = data.test
    assert (split.name, set(split.labels)) == ("test", {0, 1})
    rows = [{"split": "test", "label": label, "prediction": label} for label in split.labels]
    assert [(metric.name, metric.value) for metric in task.score(rows, settings)] == [("accuracy", 1.0)]


def test_a_corpus_is_read_by_its_declaration_alone(sources: Sources, write_split: Callable[..., Path]) -> None:
    lines = ["", " = One = \n", "", " Some words . \n", "", " = Two = \n", "", " More words . \n"]
    for split in ("train", "validation", "test"):
        write_split(REPO, "wikitext-2-raw-v1", split, lines * 4)
    task = declared(RAW)
    settings: Settings = {"tokenizer": "byte", "context_length": 16}
    assert task.identify(settings, sources).id == f"{REPO}/wikitext-2-raw-v1"
    assert [document.name for document in task.load(settings, sources).test.documents] == ["One", "Two"] * 4
