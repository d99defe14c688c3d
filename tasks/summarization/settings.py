"""Settings of summarisation tasks."""

from __future__ import annotations

from dataclasses import dataclass

from ...results.names import unknown_name
from ..metrics.requested import check_evaluate
from ..settings import check_ranges
from .data import SummaryData
from .rouge import TOKENIZERS

SOURCE = "{source}"
"""Placeholder of the text in the template of a prompt."""


@dataclass(frozen=True)
class SummarizationSettings:
    r"""How texts are read, and how summaries are written.

    Attributes:
        context_length: Most tokens of prompt and summary together.
        max_new_tokens: Most tokens that a model writes, the stop token included.
        prompt: Template of the prompt, in which `{source}` stands for the text.
        temperature: Temperature of sampling, with one seed for each batch; 0 for the likeliest token at each step.
        tokenizer: `backbone`, `bpe:N`, `auto`, `gpt2` or `byte`; see `tokenization.py`.
        train_rows: Training rows, drawn with a fixed seed; None for all. 0 reads the test split alone, for a model that
            is not trained here; its tokenizer must not be `bpe:N`.
        test_rows: Test rows, drawn with a fixed seed; None for all.
        batch_size: Prompts per batch.
        config: Folder of the repository that holds the parquet files; empty if there is only one.
        revision: Commit on the hub, in full; empty if only the mirror may be read.
        rouge_tokenizer: How ROUGE splits texts into words: `default` or `unicode`; see `rouge.py`.
        more_metrics: Metrics of the package `evaluate` beside ROUGE, over whole texts; see
            `metrics/requested.py`.

    Raises:
        ValueError: A template does not have `{source}` once, a number is out of its range, or a metric or a tokenizer
            of ROUGE is unknown.
    """

    context_length: int = 1024
    max_new_tokens: int = 128
    prompt: str = f"Summarize this text:\n{SOURCE}\n\nSummary:\n"
    temperature: float = 0.0
    tokenizer: str = "bpe:4096"
    train_rows: int | None = None
    test_rows: int | None = None
    batch_size: int = 8
    config: str = ""
    revision: str = ""
    rouge_tokenizer: str = "default"
    more_metrics: str = ""

    def __post_init__(self) -> None:
        if self.rouge_tokenizer not in TOKENIZERS:
            raise unknown_name("rouge_tokenizer", self.rouge_tokenizer, TOKENIZERS)
        if self.prompt.count(SOURCE) != 1:
            raise ValueError(f"prompt is {self.prompt!r}; it takes {SOURCE} once, where the text stands")
        check_evaluate(self.more_metrics)
        check_ranges(self, dict.fromkeys(("temperature", "train_rows"), (0, None)))
        check_ranges(self, dict.fromkeys(("max_new_tokens", "test_rows", "batch_size"), (1, None)))


@dataclass(frozen=True)
class AnyDataSettings(SummarizationSettings):
    """Settings of a summarisation task whose data set they name; see `SummaryData`.

    Attributes:
        dataset: Repository on the hub, `ORG/NAME`.
        source: Column of the texts.
        target: Column of the summaries, or several as `summary1+summary2`: a written summary is scored against the one
            that it matches best, and the first is learnt.
        train_split: Split that is trained on.
        validation_split: Split that training is validated on; None for none.
        test_split: Split that models are tested on.
        test_source: Column of the texts in the test split; empty if it is `source`.
        test_target: Columns of the summaries in the test split; empty if they are those of `target`.
    """

    dataset: str = ""
    source: str = ""
    target: str = ""
    train_split: str = "train"
    validation_split: str | None = "validation"
    test_split: str = "test"
    test_source: str = ""
    test_target: str = ""

    @property
    def data(self) -> SummaryData:
        """The data set; raises the errors of `SummaryData`."""
        return SummaryData(
            self.dataset,
            self.source,
            self.target,
            self.train_split,
            self.validation_split,
            self.test_split,
            self.test_source,
            self.test_target,
        )
