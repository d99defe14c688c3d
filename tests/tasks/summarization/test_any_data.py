"""Tests of tasks/summarization/any_data.py: texts of files are summarised and scored as those of any data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Adapter
from hedgebench.tasks.base import BackboneTokenizer, Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.summarization import protocol
from hedgebench.tasks.summarization.any_data import SUMMARIZATION
from hedgebench.tasks.summarization.settings import SummarizationSettings

PROMPT = "Summarize this dialogue:\n{source}\n\nSummary:\n"
BYTES = as_settings(
    SummarizationSettings(
        context_length=400, max_new_tokens=40, tokenizer="byte", prompt=PROMPT, train_rows=9, test_rows=7, batch_size=3
    )
)
SAMSUM = Path("datasets", "knkarthick", "samsum", "samsum")
NAMES = {"source": "dialogue", "target": "summary"}


class Echo:
    """Writes the bytes in the middle of the prompt."""

    device = torch.device("cpu")

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, max_new_tokens: int, **_: Any
    ) -> Tensor:
        return input_ids[:, -60 : max_new_tokens - 60]


def measured(task: Task, settings: Any, sources: Sources) -> tuple[Any, Any, Any]:
    """Metrics, rows and training examples."""
    data = task.load(settings, sources)
    rows = task.predict(cast(Adapter, Echo()), data, settings)
    return task.score(rows, settings), rows, data.train


def write(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.fixture
def pretrained(sources: Sources) -> Sources:
    return replace(sources, tokenizer=BackboneTokenizer("tiny", "x"))


@pytest.fixture(params=["tiny", "real"])
def samsum(request: pytest.FixtureRequest, sources: Sources) -> Sources:
    """Dialogues in the place of SAMSum's, and the real ones."""
    if request.param == "real":
        return replace(sources, mirror=request.getfixturevalue("real_mirror"))
    assert sources.mirror is not None
    folder = sources.mirror / SAMSUM
    folder.mkdir(parents=True)
    for split, rows in (("train", 12), ("validation", 3), ("test", 9)):
        texts = {
            "dialogue": [f"Ann: {'so ' * i}hi {split}" for i in range(rows)],
            "summary": ["Ann greets. So."] * rows,
        }
        frame = pandas.DataFrame({"id": [f"{split}{i}" for i in range(rows)], **texts})
        frame.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return sources


def test_the_texts_of_samsum_have_the_measures_of_samsum(sources: Sources, samsum: Sources, tmp_path: Path) -> None:
    there = samsum
    assert there.mirror is not None
    for file in (there.mirror / SAMSUM).glob("*.parquet"):
        rows = pandas.read_parquet(file).to_dict("records")
        write(tmp_path / "own" / f"{file.stem.partition('-')[0]}.jsonl", rows)  # type: ignore[arg-type]
    settings = {**BYTES, **NAMES, "file": str(tmp_path / "own")}
    metrics, rows, train = measured(SUMMARIZATION, settings, sources)
    theirs, their_rows, their_train = measured(protocol.SAMSUM, BYTES, there)
    assert metrics == theirs
    assert rows == their_rows
    assert (train.inputs == their_train.inputs).all()
    assert SUMMARIZATION.identify(settings, sources).splits == protocol.SAMSUM.identify(BYTES, there).splits


def test_several_summaries_are_columns_or_lists(pretrained: Sources, tmp_path: Path) -> None:
    rows = [
        {"id": 7, "dialogue": "a: hi", "summary": "a greets", "others": ["hi from a", "a"]},
        {"id": 8, "dialogue": "b: hi", "summary": "b greets", "others": []},
    ]
    settings = {**BYTES, **NAMES, "file": write(tmp_path / "rows.jsonl", rows), "target": "summary+others"}
    pairs = SUMMARIZATION.load(settings, pretrained).test.pairs
    assert [(pair.id, pair.references) for pair in pairs] == [
        ("7", ("a greets", "hi from a", "a")),
        ("8", ("b greets",)),
    ]
    metrics, found, train = measured(SUMMARIZATION, settings, pretrained)
    assert train is None
    assert [row["reference"] for row in found] == [["a greets", "hi from a", "a"], ["b greets"]]
    assert metrics[0].name == "rouge1"


def test_without_a_file_it_is_the_task_that_it_extends() -> None:
    hub = protocol.SUMMARIZATION
    declared = {**SUMMARIZATION.info.scales["smoke"].settings, "dataset": "org/notes", **NAMES}
    assert SUMMARIZATION.decided(declared, None) is hub
    assert declared.keys() - hub.info.scales["smoke"].settings.keys() == {"file"}
    with_file = SUMMARIZATION.decided({**declared, "file": "x.jsonl", "dataset": ""}, None)
    assert isinstance(with_file, type(SUMMARIZATION))
    assert with_file.info.recipes == SUMMARIZATION.info.recipes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": "dialog"}, "given as source, 'dialog'; did you mean dialogue"),
        ({"source": ""}, "given as source, ''"),
        ({"target": "summary+sumary"}, "given as target, 'sumary'; did you mean summary"),
        ({"target": "n"}, "target is the column 'n' of rows.jsonl, which holds int64; allowed: text"),
        ({"target": "ns"}, r"target is the column 'ns' of rows.jsonl, which holds list<.*int64>; allowed: text, lists"),
        ({"dataset": "a/b"}, "and dataset is 'a/b'; set one of"),
    ],
)
def test_wrong_names_are_told_before_anything_runs(
    pretrained: Sources, tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    file = write(tmp_path / "rows.jsonl", [{"dialogue": "a", "summary": "b", "n": 1, "ns": [1]}])
    with pytest.raises(ValueError, match=message):
        SUMMARIZATION.identify({**BYTES, **NAMES, "file": file, **changed}, pretrained)
