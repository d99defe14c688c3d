"""GLUE: nine classifications and regressions of sentences and of pairs of sentences.

Protocol: GLUE's test labels are hidden, so models are tested on the official validation split, as in the paper; MNLI
has a matched and a mismatched one. Checkpoints are chosen on rows held out of the training split; see
`text_classification.py`.

| task | metrics, the main one first |
|---|---|
| `cola` | `matthews` |
| `sst2`, `qnli`, `rte`, `wnli` | `accuracy` |
| `mnli` | `accuracy` (matched), `accuracy_mismatched` |
| `mrpc` | `f1`, `accuracy` |
| `qqp` | `accuracy`, `f1` |
| `stsb` | `pearson`, `spearman` |

The paper prints one number for each task and names only CoLA's metric: our main metrics are those that fit its numbers.
Both Pearson's and Spearman's correlation fit; Pearson's is our choice. The group `glue` runs and scores the paper's
eight tasks, without WNLI, whose validation split contradicts what can be learned from its training split.

Source: Wang et al., arXiv 1804.07461; Hedgehog, arXiv 2402.04347, table 8 (finetuned-conversion of BERT-base).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..data.sources import DatasetId
from .text_classification import TextClassification, text_info

REPO = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
_METRICS = {"matthews": "Matthews correlation", "f1": "F1", "pearson": "Pearson's correlation"}
"""How summaries spell main metrics whose names alone are unclear."""


def _glue(
    config: str,
    question: str,
    source: str,
    columns: tuple[str, ...] = ("sentence1", "sentence2"),
    metrics: tuple[str, ...] = ("accuracy",),
    *,
    num_classes: int = 2,
    test_splits: Mapping[str, str] = MappingProxyType({"validation": ""}),
) -> TextClassification:
    """One task; the first of `metrics` is the main one."""
    dataset = DatasetId(REPO, config, REVISION, ("train", *test_splits))
    info = text_info(
        name=f"glue/{config}",
        summary=f"{question} ({_METRICS.get(metrics[0], metrics[0])})",
        main_metric=metrics[0],
        data=(dataset.pinned,),
        licence="that of the original data set",
        citation=f"{source}; Wang et al., GLUE, arXiv 1804.07461",
    )
    return TextClassification(info, dataset, columns, metrics, num_classes, test_splits)


COLA = _glue(
    "cola", "Is the sentence grammatical?", "Warstadt et al., CoLA, arXiv 1805.12471", ("sentence",), ("matthews",)
)
SST2 = _glue("sst2", "Is the film review positive?", "Socher et al., SST, EMNLP 2013", ("sentence",))
MRPC = _glue(
    "mrpc", "Do two sentences of news say the same?", "Dolan and Brockett, MRPC, IWP 2005", metrics=("f1", "accuracy")
)
STSB = _glue(
    "stsb",
    "How alike are two sentences, from 0 to 5?",
    "Cer et al., STS Benchmark, arXiv 1708.00055",
    metrics=("pearson", "spearman"),
    num_classes=1,
)
QQP = _glue(
    "qqp",
    "Do two questions ask the same?",
    "Iyer et al., Quora Question Pairs, 2017",
    ("question1", "question2"),
    ("accuracy", "f1"),
)
MNLI = _glue(
    "mnli",
    "Does a sentence follow from another, contradict it, or neither?",
    "Williams et al., MultiNLI, arXiv 1704.05426",
    ("premise", "hypothesis"),
    num_classes=3,
    test_splits={"validation_matched": "", "validation_mismatched": "_mismatched"},
)
QNLI = _glue(
    "qnli", "Does a sentence answer a question?", "Rajpurkar et al., SQuAD, arXiv 1606.05250", ("question", "sentence")
)
RTE = _glue(
    "rte",
    "Does a sentence follow from a passage?",
    "Dagan et al., RTE-1, 2005, and its successors RTE-2, RTE-3 and RTE-5",
)
WNLI = _glue(
    "wnli", "Is a pronoun put back to what it stands for?", "Levesque et al., The Winograd Schema Challenge, KR 2012"
)
