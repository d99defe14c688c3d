"""The paper's claims, each with the contrast that decides it; `verdicts.py` judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from ...results.stats.contrasts import Contrast, difference, gap_closed, ordered, recovered
from .studies import ABLATIONS, PRIOR

Contrasts: TypeAlias = Callable[[bool], Sequence[Contrast]]
"""The contrasts of a claim, given whether higher is better; a model of another study is named `MODEL@STUDY`."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        id: Its name.
        artefact: The artefact that carries it.
        text: What it says.
        study: The study that it is judged on.
        contrasts: What must lie above the threshold.
        printed: Id of the paper's own number for it among the claims of `results/reference/hedgehog.json`; empty if it
            states none. What its tables' numbers give for the contrasts is added (see `reported.py`).
        threshold: In the contrast's unit: percent, or the metric's own.
        metric: The metric; empty for the tasks' main ones.
        at: The point of a sweep, as far as it is fixed.
        tracked_by: Study and metric that the study's scores are held against, model by model, instead of contrasts:
            their rank correlation is above the threshold if a low value of that metric goes with a good score.
    """

    id: str
    artefact: str
    text: str
    study: str
    contrasts: Contrasts | None = None
    printed: str = ""
    threshold: float = 0.0
    metric: str = ""
    at: Mapping[str, str] = field(default_factory=dict)
    tracked_by: tuple[str, str] | None = None


def _over(better: str, *others: str) -> Contrasts:
    """A model over each of some others."""
    return lambda higher: [difference(better, other, higher) for other in others]


def _recovers(model: str) -> Contrasts:
    return lambda higher: [recovered(model, "softmax", higher)]


_CONVERTED = "language-conversion"

CLAIMS: Mapping[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "prior-order",
            "table-1",
            "Prior maps, converted, rank exp(t=2), exp(t=1), cosFormer, ReLU, 1+ELU, Performer",
            "cola",
            partial(ordered, ("exp:t=2", "exp", "cosformer", "relu", "elu", "performer")),
        ),
        Claim(
            "recall-solved",
            "table-3",
            "Hedgehog, from scratch, recalls as well as softmax (99% of it)",
            "recall",
            _recovers("hedgehog"),
            printed="recovers-recall",
            threshold=99,
        ),
        Claim(
            "recall-prior-fail",
            "table-2",
            "1+ELU, Performer and cosFormer fail at recall: 50 points or more below Hedgehog",
            "recall",
            _over("hedgehog", "elu", "performer", "cosformer"),
            threshold=0.5,
        ),
        Claim(
            "recall-exp",
            "table-2",
            "The spiky map exp(t=2) recalls from scratch: 99% of softmax",
            "recall",
            _recovers("exp:t=2"),
            threshold=99,
        ),
        Claim(
            "cola-over-prior",
            "table-3",
            "Hedgehog, converted on CoLA, is better than every prior map",
            "cola",
            _over("hedgehog", *PRIOR),
        ),
        Claim(
            "cola-taylor",
            "table-3",
            "Hedgehog, converted on CoLA, is no more than 1 point below the Taylor map",
            "cola",
            _over("hedgehog", "taylor"),
            threshold=-0.01,
        ),
        Claim(
            "spiky",
            "figure-2",
            "Maps whose attention is spikier (of lower entropy) give better conversions on CoLA",
            "cola",
            tracked_by=("fidelity-cola", "attention_entropy"),
        ),
        Claim(
            "monotonic",
            "figure-3",
            "Maps whose attention falls less often where q·k grows give better conversions on CoLA",
            "cola",
            tracked_by=("fidelity-cola", "attention_violations"),
        ),
        Claim(
            "fidelity",
            "table-4",
            "Hedgehog's weights are nearer to softmax's than those of every other map",
            "fidelity-cola",
            _over("hedgehog", "t2r_hh", *PRIOR),
            metric="attention_kl",
        ),
        Claim(
            "fidelity-distilled",
            "table-4",
            "Distillation brings Hedgehog's weights nearer to softmax's",
            "fidelity-cola",
            _over("hedgehog", "hedgehog:distill=false"),
            metric="attention_kl",
        ),
        Claim(
            "other-text",
            "table-5",
            "Maps distilled on CoLA are nearer to softmax than prior maps on text of another kind",
            "fidelity-cola",
            _over("hedgehog", *PRIOR),
            metric="attention_kl_at",
            at={"corpus": "mrpc", "seq_len": "128"},
        ),
        Claim(
            "longer",
            "table-5",
            "Maps distilled at 128 tokens are nearer to softmax at 512 than the prior maps that reach so far",
            "fidelity-text",
            _over("hedgehog", *(model for model in PRIOR if model != "cosformer")),
            metric="attention_kl_at",
            at={"corpus": "wikitext2", "seq_len": "512"},
        ),
        Claim(
            "lra-recovers",
            "table-6",
            "Hedgehog, from scratch, recovers 99% of softmax on Long Range Arena",
            "lra",
            _recovers("hedgehog"),
            printed="recovers-lra",
            threshold=99,
        ),
        Claim(
            "lra-best",
            "table-6",
            "Hedgehog is better on Long Range Arena than every prior map",
            "lra",
            _over("hedgehog", "elu", "performer", "cosformer"),
        ),
        Claim(
            "language-gap",
            "table-7",
            "Hedgehog, from scratch, closes 68.6% of the gap in perplexity from 1+ELU to softmax",
            "language",
            lambda higher: [gap_closed("hedgehog", "elu", "softmax", higher)],
            printed="wikitext103-gap",
            threshold=68.6,
        ),
        Claim(
            "language-prior",
            "table-7",
            "Prior maps, from scratch, lose to Hedgehog in perplexity",
            "language",
            _over("hedgehog", "elu", "performer", "cosformer"),
            printed="wikitext103-perplexity",
        ),
        Claim(
            "glue-recovers",
            "table-8",
            "Hedgehog, converted, recovers 99% of softmax on GLUE",
            "glue",
            _recovers("hedgehog"),
            printed="recovers-glue",
            threshold=99,
        ),
        Claim(
            "glue-order",
            "table-8",
            "On GLUE Hedgehog is better than T2R-HH, and T2R-HH than T2R",
            "glue",
            partial(ordered, ("hedgehog", "t2r_hh", "t2r")),
            printed="glue-points",
        ),
        Claim(
            "images-recovers",
            "table-9",
            "Hedgehog, converted, recovers 99% of an image classifier",
            "images",
            _recovers("hedgehog"),
            printed="recovers-imagenet",
            threshold=99,
        ),
        Claim(
            "images-order",
            "table-9",
            "On images Hedgehog is better than T2R-HH",
            "images",
            _over("hedgehog", "t2r_hh"),
        ),
        Claim(
            "conversion-best",
            "table-10",
            "Among converted language models Hedgehog is better than T2R",
            _CONVERTED,
            _over("hedgehog", "t2r"),
        ),
        Claim(
            "conversion-over-scratch",
            "table-10",
            "Hedgehog by conversion is better than Hedgehog from scratch",
            _CONVERTED,
            _over("hedgehog", "hedgehog@language"),
        ),
        Claim(
            "distillation",
            "ablations",
            "Distillation makes the converted model better",
            _CONVERTED,
            _over("hedgehog", ABLATIONS[0]),
        ),
        Claim(
            "negation",
            "ablations",
            "Negated features make the converted model better",
            _CONVERTED,
            _over("hedgehog", ABLATIONS[1]),
        ),
        Claim(
            "identity",
            "ablations",
            "Maps that start as the identity make the converted model better than random ones",
            _CONVERTED,
            _over("hedgehog", ABLATIONS[2]),
        ),
        Claim(
            "lora",
            "table-11",
            "With LoRA Hedgehog keeps ROUGE-1 where T2R breaks: 20 points or more above it",
            "samsum",
            _over("hedgehog", "t2r"),
            threshold=0.2,
            metric="rouge1",
        ),
    )
}
"""Claims by name, in the order of the artefacts."""
