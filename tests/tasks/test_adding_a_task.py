"""What a data task costs: a module of at most 36 lines, with the protocol of its kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.base import Settings
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.language.wikitext import REPO

from .tiny_pictures import NAMES, picture, png, write_rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-task.md"
ROOMS = ("classification", "language", "images")
"""Rooms that the modules of the page belong to, in its order."""

IMDB, RAW, CIFAR100 = (
    re.sub(r"^from \.", f"from hedgebench.tasks.{room}.", block, flags=re.MULTILINE).replace(f"{room}..", "")
    for room, block in zip(
        ROOMS, re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL), strict=True
    )
)


def declared(source: str) -> Task:
    """The one task that a module of this source declares."""
    module: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "example.py", "exec"), module)
    (task,) = (value for value in module.values() if isinstance(value, Task) and not isinstance(value, type))
    return task


@pytest.mark.parametrize("source", [IMDB, RAW, CIFAR100])
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
    found = {metric.name: metric.value for metric in task.score(rows, settings)}
    assert found.keys() == {"accuracy", "majority_accuracy"}
    assert found["accuracy"] == 1.0


def test_a_corpus_is_read_by_its_declaration_alone(sources: Sources, write_split: Callable[..., Path]) -> None:
    lines = ["", " = One = \n", "", " Some words . \n", "", " = Two = \n", "", " More words . \n"]
    for split in ("train", "validation", "test"):
        write_split(REPO, "wikitext-2-raw-v1", split, lines * 4)
    task = declared(RAW)
    settings: Settings = {"tokenizer": "byte", "context_length": 16}
    assert task.identify(settings, sources).id == f"{REPO}/wikitext-2-raw-v1"
    assert [document.name for document in task.load(settings, sources).test.documents] == ["One", "Two"] * 4


def test_images_are_read_by_their_declaration_alone(sources: Sources) -> None:
    assert sources.mirror is not None
    labels = [i % 3 for i in range(20)]
    pictures = [png(picture(label, i)) for i, label in enumerate(labels)]
    for split in ("train", "test"):
        file = sources.mirror / "datasets" / "uoft-cs" / "cifar100" / "cifar100" / f"{split}-0.parquet"
        write_rows(file, pictures, labels, columns=("img", "fine_label"))
    data = declared(CIFAR100).load({}, sources)
    assert data.train is not None
    assert data.train.inputs.shape == (18, 3, 8, 8)
    assert data.test.labels.tolist() == labels
    assert data.shape.labels == NAMES
