"""The protocol of attention fidelity: its settings, the task, and metrics from the measures of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...adapters.base import Adapter, Settings, UnsupportedError
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, TaskData, TaskInfo
from ..classification.text_classification import TextClassification
from ..data.tokenization import Tokenizer
from ..heavy import np
from ..language.perplexity import Perplexity
from ..settings import check_ranges, parse_settings
from .measures import MEASURES, TEACHER_MEASURES
from .rows import WEIGHTS, CorpusWindows, Window, measured_rows, sampled_rows

SHORTEST = 16
_UNITS: dict[str, str] = dict.fromkeys(("kl", "entropy", "softmax_entropy", *TEACHER_MEASURES), "nats")
_BETTER = {"kl": False, "kl_from_teacher": False, "monotonicity": True, "violations": False, "overlap": True}


@dataclass(frozen=True, kw_only=True)
class FidelitySettings:
    """What is compared, and on how much text.

    Attributes:
        lengths: Tokens of the rows that are compared: first the length trained on, whose metrics are the main ones.
        windows: Windows of each length and corpus.
        tokenizer: As in the task that trains the model.
        sample_tokens: Most tokens whose weights are kept for plots; 0 for none.
        of_task: Names of the settings that the task that trains the model shares; first the length trained on.

    Raises:
        ValueError: A length is below 16 tokens or given twice, the first is not the one trained on, there is no window,
            or the sample is longer than the shortest length.
    """

    lengths: tuple[int, ...]
    windows: int
    tokenizer: str
    sample_tokens: int = 16
    of_task: ClassVar[tuple[str, ...]]

    def task_settings(self) -> Settings:
        """The settings of the task that trains the model."""
        return {name: getattr(self, name) for name in self.of_task}

    def __post_init__(self) -> None:
        lengths, trained, trained_length = self.lengths, self.of_task[0], getattr(self, self.of_task[0])
        if not lengths or min(lengths) < SHORTEST:
            raise ValueError(f"lengths is {lengths}; it takes lengths of {SHORTEST} tokens or more")
        if lengths[0] != trained_length:
            raise ValueError(f"lengths is {lengths}; it starts with {trained}={trained_length}, the length trained on")
        if len(set(lengths)) < len(lengths):
            raise ValueError(f"lengths is {lengths}; it takes each length once")
        check_ranges(self, {"windows": (1, None), "sample_tokens": (0, min(lengths))})


@dataclass(frozen=True)
class Measured:
    """The text or images that are measured, and the part of them whose weights are plotted.

    Attributes:
        corpora: Windows of each corpus and length; those that models are trained on come first.
        sample: A row of the first corpus whose weights are kept for plots; None for none.
    """

    corpora: tuple[CorpusWindows, ...]
    sample: Window | None


@dataclass(frozen=True)
class AttentionFidelity:
    """The task; a subclass provides the text. See `attention_fidelity.py`.

    Attributes:
        info: The declaration.
        trained_on: Name of a corpus, and the task on it that models are trained and distilled by.
        others: Further corpora to compare on, by name.
        settings: The dataclass of the settings.
    """

    info: TaskInfo
    trained_on: tuple[str, Perplexity | TextClassification]
    others: tuple[tuple[str, Any], ...]
    settings: ClassVar[type[FidelitySettings]]

    def fingerprint(self, other: Any, sources: Sources) -> str:
        """Fingerprint of the text of one of `others`."""
        raise NotImplementedError

    def corpora(self, chosen: Any, tokenizer: Tokenizer, sources: Sources, windows: int) -> Iterator[CorpusWindows]:
        """The windows of each corpus and length; none at a length for which the corpus is too short.

        Args:
            chosen: The settings.
            tokenizer: The tokenizer of the task that models are trained by.
            sources: Where the corpora may come from.
            windows: Most windows of a corpus and length.
        """
        raise NotImplementedError

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The data trained on, the tokenizer, and fingerprints of the other corpora."""
        chosen = parse_settings(self.settings, settings)
        identity = self.trained_on[1].identify(chosen.task_settings(), sources)
        others = {name: self.fingerprint(other, sources) for name, other in self.others}
        return replace(identity, details={**identity.details, **others})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """The text, `test` as `Measured`; `limit` keeps that many windows of each corpus and length.

        Raises:
            DataUnavailableError: The data are not available.
        """
        chosen = parse_settings(self.settings, settings)
        task = self.trained_on[1]
        data = task.load(chosen.task_settings(), sources)
        tokenizer = task.reader(chosen.task_settings(), sources).load_tokenizer()
        windows = chosen.windows if limit is None else min(limit, chosen.windows)
        corpora = tuple(self.corpora(chosen, tokenizer, sources, windows))
        first = corpora[0].windows[:1]
        sample = first[0].sample(chosen.sample_tokens) if first else None
        return replace(data, test=Measured(corpora, sample), wants_teacher=True)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:  # noqa: ARG002
        """The measures of each corpus, length, window, layer and head; then the weights of a few heads.

        Raises:
            UnsupportedError: Nothing could be measured; the message is the reason of the first row.
        """
        return rows_of(adapter, data.test)

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """As `metrics_of`."""
        return metrics_of(rows)


def rows_of(adapter: Adapter, measured: Measured) -> list[Row]:
    """The measures of each corpus, length, window, layer and head; then the weights of a few heads.

    Raises:
        UnsupportedError: Nothing could be measured; the message is the reason of the first row.
    """
    rows = [row for windows in measured.corpora for row in measured_rows(adapter, windows)]
    if all(row["status"] != "ok" for row in rows):
        raise UnsupportedError(rows[0]["reason"])
    if measured.sample is None:
        return rows
    first = measured.corpora[0]
    tokens = first.seq_len if measured.sample.pixels else measured.sample.inputs.shape[1]
    return [*rows, *sampled_rows(adapter, measured.sample, {"corpus": first.corpus, "seq_len": tokens})]


def metrics_of(rows: Sequence[Row]) -> list[Metric]:
    """Means over layers and heads, with standard errors over windows, of each corpus and length.

    The main metrics are those of the corpus and length that models are trained on: the first.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if WEIGHTS not in row:
            groups.setdefault((row["corpus"], row["seq_len"]), []).append(row)
    metrics = [_metrics(group) for group in groups.values()]
    points = [metric for group in metrics for metric in group]
    return [
        *(replace(metric, at={}) for metric in (metrics[0] if metrics else [])),
        *(replace(metric, name=f"{metric.name}_at", higher_is_better=None) for metric in points),
    ]


def _metrics(rows: Sequence[Row]) -> list[Metric]:
    """Metrics of one corpus and length; a divergence without a value alone if a window could not be measured."""
    from ...results.stats.statistics import mean_stderr, ratio_bootstrap

    at = {"corpus": rows[0]["corpus"], "seq_len": rows[0]["seq_len"]}
    if any(row["status"] != "ok" for row in rows):
        return [Metric("attention_kl", None, "nats", False, None, 0, at, "unsupported")]
    windows = sorted({row["window"] for row in rows})
    means = {
        name: [float(np.mean([row[name] for row in rows if row["window"] == window])) for window in windows]
        for name in (*MEASURES, *TEACHER_MEASURES)
        if name in rows[0]
    }
    metrics = []
    for name, values in means.items():
        mean, unit, better = float(np.mean(values)), _UNITS.get(name, "1"), _BETTER.get(name)
        metrics.append(Metric(f"attention_{name}", mean, unit, better, mean_stderr(values), len(values), at))
    own, softmax = means["entropy"], means["softmax_entropy"]
    if min(softmax) > 0:  # softmax that attends to one key throughout a window has no entropy to divide by
        ratio, stderr = sum(own) / sum(softmax), ratio_bootstrap(own, softmax, "ratio")
        metrics.append(Metric("attention_entropy_ratio", ratio, "1", None, stderr, len(own), at))
    return metrics
