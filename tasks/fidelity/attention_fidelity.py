"""How faithfully a mechanism's attention weights follow softmax's, on text: the paper's spikiness and monotonicity.

Every layer's queries and keys come from the model as it runs; softmax over the same queries and keys is what they are
first held against (paper §4 and appendix B). So a layer answers for its own feature maps, and not for what earlier
layers have changed in its input. Then the teacher, which is the softmax model before conversion (fine-tuned by its
recipe's teacher stage where there is one), reads the same text by itself, and the weights are held against its own:
what conversion did as a whole, fine-tuning included. Models trained from scratch have no teacher, nor have checkpoints
that were converted before; their record says so and has no metric of it. The measures, and why they were chosen, are in
`attention_measures.py`. They are taken on the test text of the corpus that maps were distilled on, on another one
(Python's standard library), and at each of `lengths`, which may be longer than what the model was trained on: the
paper's generalisation study. `attention_fidelity_cola` is the same for encoders: on CoLA's sentences, which the paper's
BERT was fine-tuned on, on the pairs of MRPC, and on rows of many sentences.

Conversions end with distillation here unless `finetune.steps` (or `lora.steps`) asks for more: the base weights are
then those of the softmax teacher, and what is measured is how well maps mimic it. Fine-tuning does not aim at that.

Beside the measures, predictions hold the weights of a few heads over the first tokens of the test text, for the plots
of `results/plots/fidelity.py`. They are no part of any score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, Capability, Settings, UnsupportedError
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, TaskData, TaskInfo, TaskScale
from ..classification.glue import COLA, MRPC
from ..language.perplexity import RECIPES
from ..language.stdlib import StandardLibrary
from ..language.wikitext import REPO, REVISION, WIKITEXT2
from ..settings import as_settings
from .measures import MEASURES, TEACHER_MEASURES
from .rows import WEIGHTS, measured_rows, sampled_rows
from .sentences import SentenceSettings, SentenceTexts
from .texts import FidelitySettings, FidelityTexts, StreamTexts, Texts

_DISTILLED_ONLY: dict[str, Settings] = {stage: {"steps": 0, "epochs": 0.0} for stage in ("finetune", "lora")}
_UNITS: dict[str, str] = dict.fromkeys(("kl", "entropy", "softmax_entropy", *TEACHER_MEASURES), "nats")
_BETTER: dict[str, bool | None] = {
    "kl": False,
    "kl_from_teacher": False,
    "monotonicity": True,
    "violations": False,
    "overlap": True,
}


@dataclass(frozen=True)
class AttentionFidelity:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        texts: What models are trained and distilled on, and measured on.
    """

    info: TaskInfo
    texts: FidelityTexts

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which data `load` would read."""
        return self.texts.identify(settings, sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """The text; `limit` keeps that many windows of each corpus and length.

        Raises:
            DataUnavailableError: The data cannot be had.
        """
        return self.texts.load(settings, sources, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:  # noqa: ARG002
        """The measures of each corpus, length, window, layer and head; then the weights of a few heads.

        Raises:
            UnsupportedError: None of the measures can be had; the message is the first one's reason.
        """
        texts: Texts = data.test
        measured = [row for place in texts.places for row in measured_rows(adapter, place)]
        if all(row["status"] != "ok" for row in measured):
            raise UnsupportedError(measured[0]["reason"])
        return [
            *measured,
            *sampled_rows(adapter, texts.sample, {"corpus": texts.places[0].corpus, "seq_len": len(texts.sample)}),
        ]

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


def _metrics(rows: Sequence[Row]) -> list[Metric]:
    """Of one corpus and length; none but an empty divergence where a window of it could not be measured."""
    import numpy as np

    from ...results.stats.statistics import mean_stderr

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
    from ...results.stats.statistics import ratio_bootstrap

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
    texts=StreamTexts(trained_on=("wikitext2", WIKITEXT2), others=(("stdlib", StandardLibrary()),)),
)

ATTENTION_FIDELITY_COLA = AttentionFidelity(
    info=TaskInfo(
        name="attention_fidelity_cola",
        version=1,
        summary="Divergence, spikiness, monotonicity and overlap of an encoder's attention weights, on sentences",
        main_metric="attention_kl",
        data=(*COLA.info.data, *MRPC.info.data),
        licence="that of the original data sets",
        citation=f"Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, section 3; {COLA.info.citation}",
        needs=frozenset({Capability.CLASSIFIER, Capability.ATTENTION_WEIGHTS}),
        backbone="encoder",
        recipes=COLA.info.recipes,
        scales={
            "smoke": TaskScale(
                settings=as_settings(
                    SentenceSettings(64, (64, 128), windows=2, texts=8, tokenizer="bpe:1024", train_rows=512)
                ),
                train=COLA.info.scales["smoke"].train,
                stages=_DISTILLED_ONLY,
            ),
            "small": TaskScale(
                settings=as_settings(SentenceSettings(train_rows=10_000)),
                train=COLA.info.scales["small"].train,
                stages=_DISTILLED_ONLY,
            ),
            "paper": TaskScale(
                settings=as_settings(SentenceSettings(tokenizer="bpe:16384")),
                train=COLA.info.scales["paper"].train,
                stages=_DISTILLED_ONLY,
            ),
        },
    ),
    texts=SentenceTexts(trained_on=("cola", COLA), others=(("mrpc", MRPC),)),
)
