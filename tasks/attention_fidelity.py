"""How faithfully a mechanism's attention weights follow softmax's, on text: the paper's spikiness and monotonicity.

Every layer's queries and keys come from the model as it runs; softmax over the same queries and keys is what they are
first held against (paper §4 and appendix B). So a layer answers for its own feature maps, and not for what earlier
layers have changed in its input. Then the teacher, which is the softmax model before conversion (fine-tuned by its
recipe's teacher stage where there is one), reads the same text by itself, and the weights are held against its own:
what conversion did as a whole, fine-tuning included. Models trained from scratch have no teacher, nor have checkpoints
that were converted before; their record says so and has no metric of it. The measures, and why they were chosen, are in
`attention_measures.py`. They are taken on the test text of the corpus that maps were distilled on, on another one
(Python's standard library), and at each of `lengths`, which may be longer than what the model was trained on: the
paper's generalisation study.

Conversions end with distillation here unless `finetune.steps` (or `lora.steps`) asks for more: the base weights are
then those of the softmax teacher, and what is measured is how well maps mimic it. Fine-tuning does not aim at that.

Beside the measures, predictions hold the weights of a few heads over the first tokens of the test text, for the plots
of `results/plot_fidelity.py`. They are no part of any score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..adapters.base import Adapter, Capability, Settings, UnsupportedError
from ..results.record import DataIdentity, Metric
from .attention_measures import MEASURES, TEACHER_MEASURES
from .attention_rows import WEIGHTS, measured_rows, sampled_rows, unsupported_row
from .base import Row, Sources, TaskData, TaskInfo, TaskScale
from .documents import Corpus, take_bytes
from .perplexity import RECIPES, Perplexity, PerplexitySettings
from .settings import as_settings, parse_settings
from .stdlib import StandardLibrary
from .tokenization import load_tokenizer
from .wikitext import REPO, REVISION, WikiText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OTHER_BYTES = 400_000
_UNITS: dict[str, str] = dict.fromkeys(("kl", "entropy", "softmax_entropy", *TEACHER_MEASURES), "nats")
_BETTER: dict[str, bool | None] = {
    "kl": False,
    "kl_from_teacher": False,
    "monotonicity": True,
    "violations": False,
    "overlap": True,
}
_DISTILLED_ONLY: dict[str, Settings] = {stage: {"steps": 0, "epochs": 0.0} for stage in ("finetune", "lora")}


@dataclass(frozen=True)
class FidelitySettings:
    """What is compared, and on how much text.

    Attributes:
        context_length: Tokens of a row in training and distillation.
        lengths: Tokens of the rows that are compared: `context_length`, whose metrics are the main ones, then others.
        windows: Rows of each length and corpus.
        tokenizer: As in the perplexity tasks.
        train_bytes: Training text, from the start of the split; 0 for none.
        sample_tokens: Tokens whose weights are kept for plots; 0 for none.

    Raises:
        ValueError: A length below 16 tokens or given twice, another than `context_length` first, no window, or more
            tokens to sample than the shortest length.
    """

    context_length: int = 256
    lengths: tuple[int, ...] = (256, 512, 1024)
    windows: int = 4
    tokenizer: str = "auto"
    train_bytes: int | None = None
    sample_tokens: int = 16

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 16:
            raise ValueError(f"lengths is {self.lengths}; it takes lengths of 16 tokens or more")
        if self.lengths[0] != self.context_length:
            raise ValueError(
                f"lengths is {self.lengths}; it starts with context_length={self.context_length}, the length trained on"
            )
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths is {self.lengths}; it takes each length once")
        if self.windows < 1:
            raise ValueError(f"windows is {self.windows}; it takes 1 or more")
        if not 0 <= self.sample_tokens <= min(self.lengths):
            raise ValueError(
                f"sample_tokens is {self.sample_tokens}; it takes 0 to {min(self.lengths)}, the shortest of lengths"
            )

    def of_text(self) -> Settings:
        """The settings of the perplexity task that reads the same text."""
        return as_settings(
            PerplexitySettings(
                context_length=self.context_length, tokenizer=self.tokenizer, train_bytes=self.train_bytes
            )
        )


@dataclass(frozen=True)
class _Texts:
    """Token ids of the test text of each corpus, and how many rows of each length are compared."""

    by_corpus: dict[str, NDArray[np.int32]]
    windows: int


@dataclass(frozen=True)
class AttentionFidelity:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        trained_on: Name and corpus that models are trained and distilled on.
        others: Further corpora to compare on.
    """

    info: TaskInfo
    trained_on: tuple[str, Corpus]
    others: tuple[tuple[str, Corpus], ...]

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The corpus trained on, the tokenizer, and hashes of the other corpora."""
        found = self._trained_on().identify(parse_settings(FidelitySettings, settings).of_text(), sources)
        others = {name: corpus.identify(("test",), sources).fingerprint for name, corpus in self.others}
        return replace(found, details={**found.details, **others})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Reads the corpora; `limit` keeps that many windows of each length.

        Raises:
            DataUnavailableError: The data cannot be had.
        """
        import numpy as np

        chosen = parse_settings(FidelitySettings, settings)
        task = self._trained_on()
        data = task.load(chosen.of_text(), sources)
        texts = {self.trained_on[0]: np.concatenate([document.tokens for document in data.test.documents])}
        reader = task.reader(chosen.of_text(), sources)
        tokenizer = load_tokenizer(reader.tokenizer, lambda: (text.text for text in reader.documents("train")))
        for name, corpus in self.others:
            documents = take_bytes(corpus.documents("test", sources), _OTHER_BYTES)
            texts[name] = np.concatenate(tokenizer.encode([document.text for document in documents]))
        windows = chosen.windows if limit is None else min(limit, chosen.windows)
        return replace(data, test=_Texts(texts, windows), wants_teacher=True)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The measures of each corpus, length, window, layer and head; then the weights of a few heads.

        Raises:
            UnsupportedError: None of the measures can be had; the message is the first one's reason.
        """
        chosen = parse_settings(FidelitySettings, settings)
        measured = [
            row
            for corpus, tokens in data.test.by_corpus.items()
            for length in chosen.lengths
            for row in _measured(adapter, tokens, corpus, length, data.test.windows)
        ]
        if all(row["status"] != "ok" for row in measured):
            raise UnsupportedError(measured[0]["reason"])
        corpus, tokens = next(iter(data.test.by_corpus.items()))
        sample = tokens[: chosen.sample_tokens]
        return [*measured, *sampled_rows(adapter, sample, {"corpus": corpus, "seq_len": len(sample)})]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """Means over layers and heads, with standard errors over windows, of each corpus and length.

        The main metrics are those of the corpus and length that models are trained on: the first.
        """
        rows = [row for row in rows if WEIGHTS not in row]
        places = list(dict.fromkeys((row["corpus"], row["seq_len"]) for row in rows))
        by_place = [_metrics([r for r in rows if (r["corpus"], r["seq_len"]) == place]) for place in places]
        first = [replace(metric, at={}) for metrics in by_place[:1] for metric in metrics]
        points = [
            replace(metric, name=f"{metric.name}_at", higher_is_better=None)
            for metrics in by_place
            for metric in metrics
        ]
        return [*first, *points]

    def _trained_on(self) -> Perplexity:
        return Perplexity(self.info, self.trained_on[1])


def _measured(adapter: Adapter, tokens: NDArray[np.int32], corpus: str, length: int, windows: int) -> Iterator[Row]:
    """The rows of the first windows of a corpus at one length."""
    if len(tokens) < length:
        reason = f"the test text of {corpus} has {len(tokens)} tokens, fewer than a row of {length}"
        yield unsupported_row({"corpus": corpus, "seq_len": length, "window": 0}, reason)
    for window in range(min(windows, len(tokens) // length)):
        at = {"corpus": corpus, "seq_len": length, "window": window}
        yield from measured_rows(adapter, tokens[window * length :][:length], at)


def _metrics(rows: Sequence[Row]) -> list[Metric]:
    """Of one corpus and length; none but an empty divergence where a window of it could not be measured."""
    import numpy as np

    from ..results.statistics import mean_stderr

    at = {"corpus": rows[0]["corpus"], "seq_len": rows[0]["seq_len"]}
    if any(row["status"] != "ok" for row in rows):
        return [Metric("attention_kl", None, "nats", False, None, 0, at, "unsupported")]
    windows = sorted({row["window"] for row in rows})
    means = {
        name: [float(np.mean([row[name] for row in rows if row["window"] == window])) for window in windows]
        for name in (*MEASURES, *TEACHER_MEASURES)
        if name in rows[0]
    }
    metrics = [
        Metric(
            f"attention_{name}",
            float(np.mean(values)),
            _UNITS.get(name, "1"),
            _BETTER.get(name),
            mean_stderr(values),
            len(values),
            at,
        )
        for name, values in means.items()
    ]
    return [*metrics, *_entropy_ratio(means["entropy"], means["softmax_entropy"], at)]


def _entropy_ratio(entropies: Sequence[float], softmax: Sequence[float], at: dict[str, str | int]) -> list[Metric]:
    """Entropy over softmax's, sum over sum; none where softmax looks at a single key throughout some window."""
    from ..results.statistics import ratio_bootstrap

    if min(softmax) <= 0:
        return []
    ratio, stderr = sum(entropies) / sum(softmax), ratio_bootstrap(entropies, softmax, "ratio")
    return [Metric("attention_entropy_ratio", ratio, "1", None, stderr, len(entropies), at)]


ATTENTION_FIDELITY = AttentionFidelity(
    info=TaskInfo(
        name="attention_fidelity",
        version=3,
        summary="Divergence, spikiness, monotonicity and overlap of attention weights against softmax's, on text",
        main_metric="attention_kl",
        data=(f"{REPO}/wikitext-2-v1@{REVISION}", "python-stdlib"),
        licence="CC BY-SA 3.0",
        citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, sections 3 and 5.1",
        needs=frozenset({Capability.LANGUAGE_MODEL, Capability.ATTENTION_WEIGHTS}),
        recipes=RECIPES,
        scales={
            "smoke": TaskScale(
                settings=as_settings(
                    FidelitySettings(
                        context_length=128, lengths=(128, 256), windows=2, tokenizer="bpe:1024", train_bytes=1_000_000
                    )
                ),
                train={"steps": 60},
                stages=_DISTILLED_ONLY,
            ),
            "small": TaskScale(
                settings=as_settings(
                    FidelitySettings(context_length=128, lengths=(128, 256, 512, 1024), tokenizer="bpe:2048")
                ),
                stages=_DISTILLED_ONLY,
            ),
            "paper": TaskScale(
                settings=as_settings(FidelitySettings(1024, (1024, 256, 512, 2048, 4096), 8)), stages=_DISTILLED_ONLY
            ),
        },
    ),
    trained_on=("wikitext2", WikiText("wikitext-2-v1")),
    others=(("stdlib", StandardLibrary()),),
)
