"""How faithfully a mechanism's attention weights follow softmax's, on text: the paper's spikiness and monotonicity.

Every layer's queries and keys come from the model as it runs; softmax over the same queries and keys is what they are
held against (paper §4 and appendix B). So a layer answers for its own feature maps, and not for what earlier layers
have changed in its input. The measures, and why they were chosen, are in `attention_measures.py`. They are taken on the
test text of the corpus that maps were distilled on, on another one (Python's standard library), and at each of
`lengths`, which may be longer than what the model was trained on: the paper's generalisation study.

Conversions end with distillation here unless `finetune.steps` (or `lora.steps`) asks for more: the base weights are
then those of the softmax teacher, and what is measured is how well maps mimic it. Fine-tuning does not aim at that.

Beside the measures, predictions hold the weights of a few heads over the first tokens of the test text, for the plots
of `results/plot_fidelity.py`. They are no part of any score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..adapters.base import Adapter, AttentionMaps, Capability, Settings, UnsupportedError
from ..results.record import DataIdentity, Metric
from .attention_measures import MEASURES, compare_maps
from .base import Row, Sources, TaskData, TaskInfo, TaskScale
from .documents import Corpus, take_bytes
from .perplexity import RECIPES, Perplexity, PerplexitySettings
from .settings import as_settings, parse_settings
from .stdlib import StandardLibrary
from .tokenization import load_tokenizer
from .wikitext import REPO, REVISION, WikiText

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

WEIGHTS = "weights"
"""Key of the rows that hold weights for plots, and of those weights in them."""

_OTHER_BYTES = 400_000
_SAMPLED_LAYERS, _SAMPLED_HEADS = 3, 4
_DISTILLED_ONLY: dict[str, Settings] = {stage: {"steps": 0, "epochs": 0.0} for stage in ("finetune", "lora")}
_UNITS = {"kl": "nats", "entropy": "nats", "softmax_entropy": "nats"}
_BETTER: dict[str, bool | None] = {"kl": False, "monotonicity": True, "violations": False, "overlap": True}


@dataclass(frozen=True)
class FidelitySettings:
    """What is compared, and on how much text.

    Attributes:
        context_length: Tokens of a row in training and distillation.
        lengths: Tokens of the rows that are compared, the one trained on first.
        windows: Rows of each length and corpus.
        tokenizer: As in the perplexity tasks.
        train_bytes: Training text, from the start of the split; 0 for none.
        sample_tokens: Tokens whose weights are kept for plots; 0 for none.

    Raises:
        ValueError: A length below 16 tokens, no window, or more tokens to sample than the shortest length.
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
        return replace(data, test=_Texts(texts, chosen.windows if limit is None else min(limit, chosen.windows)))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The measures of each corpus, length, window, layer and head; then the weights of a few heads."""
        chosen = parse_settings(FidelitySettings, settings)
        measured = [
            row
            for corpus, tokens in data.test.by_corpus.items()
            for length in chosen.lengths
            for window in range(min(data.test.windows, len(tokens) // length))
            for row in _compared(adapter, tokens[window * length :][:length], corpus, window)
        ]
        corpus, tokens = next(iter(data.test.by_corpus.items()))
        return [*measured, *_sampled(adapter, tokens[: chosen.sample_tokens], corpus)]

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


def _compared(adapter: Adapter, tokens: NDArray[np.int32], corpus: str, window: int) -> Iterator[Row]:
    """A row for each layer and head of one window; one that says so where the model has no place for the tokens."""
    import torch

    found: list[Row] = []
    at = {"corpus": corpus, "seq_len": len(tokens)}

    def visit(layer: int, maps: AttentionMaps) -> None:
        measured = {name: values.tolist() for name, values in compare_maps(maps).items()}
        place = {**at, "window": window, "status": "ok", "layer": layer}
        found.extend(
            {**place, "head": head, **{name: values[head] for name, values in measured.items()}}
            for head in range(maps.softmax.shape[1])
        )

    inputs = torch.as_tensor(tokens, dtype=torch.long, device=adapter.device)[None]
    try:
        adapter.compare_attention(inputs, visit)
    except UnsupportedError as error:
        found = [{**at, "window": window, "status": "unsupported", "reason": str(error)}]
    yield from found


def _sampled(adapter: Adapter, tokens: NDArray[np.int32], corpus: str) -> Iterator[Row]:
    """Weights of a few heads of a few layers, spread evenly: for each query those of the keys it sees, in order.

    A model that has no place for the tokens has no sample; the rows of its measures say why.
    """
    import torch

    layers: list[AttentionMaps] = []
    inputs = torch.as_tensor(tokens, dtype=torch.long, device=adapter.device)[None]
    try:
        if len(tokens):
            adapter.compare_attention(inputs, lambda _, maps: layers.append(maps))
    except UnsupportedError:
        return
    for layer in _spread(len(layers), _SAMPLED_LAYERS):
        maps = layers[layer]
        for head in _spread(maps.softmax.shape[1], _SAMPLED_HEADS):
            seen = maps.products[0, head] > -torch.inf
            kept = {WEIGHTS: maps.weights, "softmax": maps.softmax, "products": maps.products}
            yield {
                "corpus": corpus,
                "seq_len": len(tokens),
                "layer": layer,
                "head": head,
                **{name: _ragged(values[0, head], seen) for name, values in kept.items()},
            }


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, from the first to the last."""
    taken = min(count, most)
    return [round(i * (count - 1) / max(1, taken - 1)) for i in range(taken)]


def _ragged(values: torch.Tensor, seen: torch.Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row[mask].tolist()] for row, mask in zip(values, seen, strict=True)]


def _metrics(rows: Sequence[Row]) -> list[Metric]:
    import numpy as np

    from ..results.statistics import mean_stderr

    at = {"corpus": rows[0]["corpus"], "seq_len": rows[0]["seq_len"]}
    if any(row["status"] != "ok" for row in rows):
        return [Metric("attention_kl", None, "nats", False, None, 0, at, "unsupported")]
    windows = sorted({row["window"] for row in rows})
    metrics = []
    for name in MEASURES:
        means = [float(np.mean([row[name] for row in rows if row["window"] == window])) for window in windows]
        unit, better = _UNITS.get(name, "1"), _BETTER.get(name)
        metrics.append(
            Metric(f"attention_{name}", float(np.mean(means)), unit, better, mean_stderr(means), len(means), at)
        )
    ratio = metrics[1].value / metrics[2].value if metrics[1].value is not None and metrics[2].value else None
    return [*metrics, Metric("attention_entropy_ratio", ratio, "1", None, None, len(windows), at)]


ATTENTION_FIDELITY = AttentionFidelity(
    info=TaskInfo(
        name="attention_fidelity",
        version=2,
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
