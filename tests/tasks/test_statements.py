"""Every task states, for the record, where its tokenizer came from and which token stands before a text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from hedgebench.adapters.base import Settings
from hedgebench.harness.registry import tasks
from hedgebench.tasks.base import NO_TEXT, Sources
from hedgebench.tasks.classification.any_data import OwnClassification
from hedgebench.tasks.classification.label_words import ClassificationWithHeads, GlueWithHeads
from hedgebench.tasks.classification.text_classification import TextClassification
from hedgebench.tasks.data.image_sets import CIFAR10
from hedgebench.tasks.fidelity.layer_sensitivity import LayerSensitivity
from hedgebench.tasks.fidelity.protocol import AttentionFidelity
from hedgebench.tasks.language.any_data import OwnPerplexity
from hedgebench.tasks.language.by_position import WindowedCorpus
from hedgebench.tasks.language.hidden_facts import HiddenFacts
from hedgebench.tasks.language.perplexity import Perplexity
from hedgebench.tasks.language.wikitext import REPO as WIKITEXT
from hedgebench.tasks.lra.protocol import SequenceClassification
from hedgebench.tasks.lra.retrieval import AAN
from hedgebench.tasks.summarization.any_data import OwnSummaries
from hedgebench.tasks.summarization.protocol import Summarization

TASKS = {
    name: task.extends if isinstance(task, GlueWithHeads | ClassificationWithHeads) else task
    for name, task in tasks().items.items()
    if type(task).__module__.startswith("hedgebench.tasks")
}
OWN = (OwnPerplexity, OwnClassification, OwnSummaries)
OF_TEXT = (
    TextClassification,
    Perplexity,
    Summarization,
    AttentionFidelity,
    HiddenFacts,
    WindowedCorpus,
    *OWN,
    LayerSensitivity,
)
WORDS = " ".join(f"word{i}" for i in range(400))
QUICK: Mapping[str, Settings] = {
    "lra/listops": {"min_length": 10, "max_length": 40, "train_rows": 20, "validation_rows": 10, "test_rows": 10},
    "lra/pathfinder": {"image_size": 16, "dashes": 4, "train_rows": 20, "validation_rows": 10, "test_rows": 10},
    "lra/image": {"train_rows": 4, "validation_rows": 2},
    "summarization": {"dataset": "org/news", "source": "dialogue", "target": "summary"},
    "perplexity": {"dataset": "org/news", "column": "dialogue"},
    "classification": {"dataset": "org/news", "text": "dialogue", "label": "summary"},
    "stdlib": {"train_bytes": 50_000, "test_bytes": 20_000},
    "attention_fidelity": {"train_bytes": 50_000},
    "text_recall": {"most_per_million": 1e6, "test_length": 1500},
}


def write(sources: Sources, repo: str, config: str, splits: Sequence[str], **columns: Sequence[Any]) -> None:
    """The splits of a data set in the mirror, all alike."""
    assert sources.mirror is not None
    folder = sources.mirror / "datasets" / repo / config
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        pandas.DataFrame(columns).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_pairs(folder: Path) -> None:
    """Pairs of documents as the benchmark released them."""
    folder.mkdir(parents=True)
    for split in AAN.splits:
        lines = [f"{i % 2}.0\tA{i}\tB{i}\t{split} {i}\tother {i}" for i in range(12)]
        (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def stock(sources: Sources, task: Any) -> None:
    """Stand-ins for the data that a task downloads; nothing for one that makes its own."""
    assert sources.mirror is not None
    match task:
        case LayerSensitivity():
            stock(sources, task.task)
        case AttentionFidelity():
            for _, other in (task.trained_on, *task.others):
                stock(sources, other)
        case TextClassification():
            labels = [float(i) if task.num_classes == 1 else i % task.num_classes for i in range(20)]
            text = {name: [f"{i} {WORDS[:400]}" for i in range(20)] for name in task.columns}
            write(sources, task.dataset.repo, task.dataset.config, task.dataset.splits, **text, label=labels)
        case Perplexity() if task.info.data[0].startswith(WIKITEXT):
            config = task.info.data[0].removeprefix(f"{WIKITEXT}/").partition("@")[0]
            write(sources, WIKITEXT, config, ("train", "validation", "test"), text=["", " = A = \n", "", WORDS] * 4)
        case HiddenFacts() | WindowedCorpus():
            stock(sources, task.corpus)
        case Summarization() | OwnPerplexity() | OwnClassification() | OwnSummaries():
            columns = {"dialogue": [f"{i} said {WORDS}" for i in range(20)], "summary": ["so", "yes"] * 10}
            repo = task.data.repo if isinstance(task, Summarization) and task.data else "org/news"
            write(sources, repo, "en", ("train", "validation", "test"), id=list("abcdefghijklmnopqrst"), **columns)
        case SequenceClassification() if task.info.name == "lra/image":
            with io.BytesIO() as file:
                Image.new("L", (32, 32)).save(file, "png")
                pictures = [{"bytes": file.getvalue(), "path": "a.png"}] * 20
            write(sources, CIFAR10.repo, CIFAR10.config, CIFAR10.splits, img=pictures, label=[0, 1] * 10)
        case SequenceClassification() if task.info.name == "lra/retrieval":
            write_pairs(sources.mirror / "datasets" / AAN.repo / AAN.config)
        case _:
            pass


LIKE_DIGITS = {"cifar10", "imagenet1k", "images", "attention_fidelity_images"}
"""Tasks that differ from those on digits in nothing but the data."""


@pytest.mark.parametrize("name", sorted(TASKS.keys() - LIKE_DIGITS))
def test_every_task_states_its_tokenizers_source_and_the_token_before_a_text(name: str, sources: Sources) -> None:
    task: Any = TASKS[name]
    stock(sources, task)
    data = task.load({**task.info.scales["smoke"].settings, **QUICK.get(name, {})}, sources)
    if name == "lra/retrieval":
        assert data.details == {"tokenizer": "byte", "tokenizer_source": "built in", "prefix_token": "none"}
    elif isinstance(task, OF_TEXT):
        assert data.details["tokenizer_source"] in ("trained here", "built in")
        is_classified = task.info.backbone == "encoder"
        assert data.details["prefix_token"] == ("none" if is_classified else "<|endoftext|>")
    else:
        assert data.details.items() >= NO_TEXT.items()


def test_the_tasks_are_all_there_are_but_plugins() -> None:
    assert {"wikitext2", "glue/cola", "samsum", "lra/image", "throughput", "associative_recall"} <= set(TASKS)
    assert {name for name in TASKS if name.startswith("lra/")} == {
        "lra/digits", "lra/image", "lra/listops", "lra/pathfinder", "lra/retrieval", "lra/text"
    }  # fmt: skip


def test_no_scale_of_a_task_trains_at_a_rate_that_nothing_learns_at() -> None:
    rates = {
        (name, scale): float(str(values.train["lr"]))
        for name, task in TASKS.items()
        for scale, values in task.info.scales.items()
        if "lr" in values.train
    }
    assert len(rates) > 30
    assert {place: rate for place, rate in rates.items() if not 1e-5 <= rate <= 2e-2} == {}
