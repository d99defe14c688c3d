"""The studies of the paper's reproduction.

`smoke` shows that every path runs, on embedded or tiny data and models that learn nothing. `small` is what two cores do
in a night: models that are trained out. `paper` has the paper's models and data and each hyper-parameter that a source
states; the recipes' defaults stand for those that none does (see `docs/paper.md`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ...results.names import GROUPS
from .declarations import Study, StudyScale

PRIOR = ("elu", "relu", "performer", "cosformer", "exp", "exp:t=2")
"""The feature maps before Hedgehog, in the order of the paper's table 1."""

ABLATIONS = (
    "hedgehog:distill=false",
    "hedgehog:negate=false",
    "hedgehog:init=random",
    "hedgehog:tied=true",
    "hedgehog:map=exp_max",
    "hedgehog:map=softmax",
    "hedgehog:map=softmax_joint",
)
"""Hedgehog with one thing changed."""

CONTROL = "softmax:continued=true"
"""Softmax attention trained for as long as the converted models are."""

_FIDELITY = ("softmax", *PRIOR, "t2r_hh", "hedgehog", "hedgehog:distill=false")
_GLUE = GROUPS["glue"]
_FEW_ROWS = tuple(task if task == "glue/cola" else f"{task}:train_rows=3000" for task in _GLUE)
"""GLUE at `small`; CoLA has all its rows, as in the study of CoLA alone, and shares its cells."""

_FEW_STEPS = {
    f"{stage}.{name}": value
    for stage in ("teacher", "distill", "finetune")
    for name, value in (("steps", "2"), ("batch_size", "8"), ("eval_rows", "16"))
}
_FEW_TEXTS = {**_FEW_STEPS, "task.train_rows": "64", "task.test_rows": "32"}
_FEW_HOURS = {"teacher.lr": "1e-4", "teacher.epochs": "3", "distill.epochs": "0", "distill.steps": "125"}
"""Conversions of encoders at `small`: a rate and epochs with which MiniLM learns CoLA."""

_LANGUAGE_STEPS = {"train.steps": "6000", "train.eval_every": "1000"}
_TWO_ROWS = {"epochs": "0", "steps": "60", "batch_size": "2", "eval_rows": "16", "eval_batch_size": "2"}
_ROTARY = {"backbone.rope": "true"}
"""Positions without an end, so that texts may be longer than those of training."""

_TWO_SUMMARIES = {"task.test_rows": "2", "task.max_new_tokens": "4"}
_NO_VIT = "its weights are on the hub alone, and ImageNet is not in the mirror; see the study `images`"

_RECALL = Study(
    name="recall",
    columns=("associative_recall",),
    models=("softmax", *PRIOR, "t2r", "taylor", "hedgehog"),
    recipe="scratch",
    scales={
        "smoke": StudyScale(("associative_recall",), settings={"train.steps": "30"}),
        "small": StudyScale(("associative_recall",), seeds=5),
        "paper": StudyScale(("associative_recall",), seeds=5),
    },
)

_COLA = Study(
    name="cola",
    columns=("glue/cola",),
    models=("softmax", CONTROL, *PRIOR, "taylor", "t2r", "t2r_hh", "hedgehog", "hedgehog:distill=false"),
    recipe="finetuned-conversion",
    scales={
        "smoke": StudyScale(("glue/cola",), "minilm-l6", settings=_FEW_TEXTS, models=("softmax", "elu", "hedgehog")),
        "small": StudyScale(("glue/cola",), "minilm-l6", seeds=3, settings=_FEW_HOURS),
        "paper": StudyScale(("glue/cola",), "bert-base", seeds=5),
    },
)

_GLUE_CONVERSION = Study(
    name="glue",
    columns=_GLUE,
    models=("softmax", CONTROL, "t2r", "t2r_hh", "hedgehog"),
    recipe="finetuned-conversion",
    scales={
        "smoke": StudyScale(_GLUE, "minilm-l6", settings=_FEW_TEXTS, models=("softmax", "hedgehog")),
        "small": StudyScale(_FEW_ROWS, "minilm-l6", seeds=3, settings=_FEW_HOURS),
        "paper": StudyScale(_GLUE, "bert-base", seeds=5),
    },
)

_FIDELITY_COLA = Study(
    name="fidelity-cola",
    columns=("attention_fidelity_cola",),
    models=_FIDELITY,
    recipe="finetuned-conversion",
    scales={
        "smoke": StudyScale(
            ("attention_fidelity_cola",),
            "minilm-l6",
            settings={**_FEW_STEPS, "task.windows": "1"},
            models=("softmax", "elu", "hedgehog"),
        ),
        "small": StudyScale(
            ("attention_fidelity_cola",), "minilm-l6", seeds=3, settings={**_FEW_HOURS, "task.texts": "4"}
        ),
        "paper": StudyScale(("attention_fidelity_cola",), "bert-base", seeds=5),
    },
)

_FIDELITY_TEXT = Study(
    name="fidelity-text",
    columns=("attention_fidelity",),
    models=_FIDELITY,
    recipe="scratch-conversion",
    scales={
        "smoke": StudyScale(("attention_fidelity",), settings=_ROTARY, models=("softmax", "hedgehog")),
        "small": StudyScale(("attention_fidelity",), seeds=3, settings=_ROTARY),
        "paper": StudyScale(("attention_fidelity",), seeds=3, settings=_ROTARY),
    },
)

_LRA = Study(
    name="lra",
    columns=GROUPS["lra"],
    models=("softmax", "elu", "performer", "cosformer", "hedgehog"),
    recipe="scratch",
    scales={
        "smoke": StudyScale(GROUPS["lra"], settings={"train.steps": "2"}, models=("softmax", "hedgehog")),
        "small": StudyScale(
            (
                "lra/listops:min_length=32:max_length=128",
                "lra/text:max_length=256",
                "lra/retrieval",
                "lra/image",
                "lra/pathfinder:dashes=3:distractors=2:image_size=16",
            ),
            seeds=3,
            settings={"train.steps": "2500", "train.lr": "1e-3"},
        ),
        "paper": StudyScale(GROUPS["lra"], seeds=3),
    },
)

_LANGUAGE = Study(
    name="language",
    columns=("wikitext103",),
    models=("softmax", "elu", "performer", "cosformer", "taylor", "hedgehog"),
    recipe="scratch",
    scales={
        "smoke": StudyScale(("stdlib",), models=("softmax", "elu", "hedgehog"), settings={"train.steps": "20"}),
        "small": StudyScale(("wikitext2",), seeds=3, settings=_LANGUAGE_STEPS),
        "paper": StudyScale(("wikitext103",), seeds=3),
    },
)

_LANGUAGE_CONVERSION = Study(
    name="language-conversion",
    columns=("wikitext103",),
    models=("softmax", CONTROL, "elu", "t2r", "t2r_hh", "hedgehog", *ABLATIONS),
    recipe="scratch-conversion",
    scales={
        "smoke": StudyScale(
            ("stdlib",), models=("softmax", CONTROL, "t2r", "hedgehog"), settings={"train.steps": "20"}
        ),
        "small": StudyScale(("wikitext2",), seeds=3, settings=_LANGUAGE_STEPS),
        "paper": StudyScale(("wikitext103",), seeds=3),
    },
)

_GPT2 = Study(
    name="gpt2",
    columns=("wikitext103",),
    models=("softmax", "t2r", "hedgehog"),
    recipe="pretrained-conversion",
    scales={
        "smoke": StudyScale(
            ("wikitext2",),
            "smollm2-135m",
            models=("softmax", "hedgehog"),
            settings={
                "task.context_length": "32",
                "task.train_bytes": "20000",
                "task.test_bytes": "1000",
                **{f"{stage}.{name}": "1" for stage in ("distill", "finetune") for name in ("steps", "batch_size")},
                **{f"{stage}.eval_rows": "2" for stage in ("distill", "finetune")},
            },
        ),
        "small": StudyScale(
            ("wikitext2",),
            "smollm2-135m",
            settings={
                "task.context_length": "256",
                "task.test_bytes": "60000",
                **{f"{stage}.{name}": value for stage in ("distill", "finetune") for name, value in _TWO_ROWS.items()},
            },
        ),
        "paper": StudyScale(("wikitext103",), "gpt2", seeds=3, settings={"finetune.lr": "6e-4"}),
    },
    illustrates=("smoke", "small"),
)

_IMAGES = Study(
    name="images",
    columns=("imagenet1k",),
    models=("softmax", CONTROL, "elu", "t2r", "t2r_hh", "hedgehog", "hedgehog:distill=false"),
    recipe="scratch-conversion",
    scales={
        "smoke": StudyScale(("digits",), models=("softmax", "t2r_hh", "hedgehog")),
        "small": StudyScale(("images:dataset=local/mnist-10k",), seeds=5),
        "paper": StudyScale(("imagenet1k",), seeds=1),
    },
)

_VIT = Study(
    name="vit-b16",
    columns=("imagenet1k",),
    models=("softmax", "t2r_hh", "hedgehog"),
    recipe="finetuned-conversion",
    scales={"paper": StudyScale(("imagenet1k",), "vit-b16", seeds=3)},
    gaps={"smoke": _NO_VIT, "small": _NO_VIT},
)

_SAMSUM = Study(
    name="samsum",
    columns=("samsum",),
    models=("softmax", "t2r", "hedgehog"),
    recipe="pretrained-conversion-lora",
    scales={
        "smoke": StudyScale(
            ("samsum",),
            "smollm2-135m",
            settings={**_TWO_SUMMARIES, "distill.steps": "1", "lora.steps": "1"},
            models=("hedgehog",),
        ),
        "small": StudyScale(("samsum",), "smollm2-135m"),
        "paper": StudyScale(("samsum",), "llama2-7b", seeds=3),
    },
    illustrates=("smoke", "small"),
)

_SAMSUM_ZERO_SHOT = Study(
    name="samsum-zero-shot",
    columns=("samsum",),
    models=("softmax",),
    recipe="zero-shot",
    scales={
        "smoke": StudyScale(("samsum",), "smollm2-135m", settings=_TWO_SUMMARIES),
        "small": StudyScale(("samsum",), "smollm2-135m"),
        "paper": StudyScale(("samsum",), "llama2-7b"),
    },
    illustrates=("smoke", "small"),
)

_EFFICIENCY = Study(
    name="efficiency",
    columns=("throughput", "memory"),
    models=("softmax", "taylor:feature_dim=16", "hedgehog"),
    recipe=None,
    scales={scale: StudyScale(("throughput", "memory")) for scale in ("smoke", "small", "paper")},
)

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        *(_RECALL, _COLA, _GLUE_CONVERSION, _FIDELITY_COLA, _FIDELITY_TEXT, _LRA, _LANGUAGE, _LANGUAGE_CONVERSION),
        *(_GPT2, _IMAGES, _VIT, _SAMSUM, _SAMSUM_ZERO_SHOT, _EFFICIENCY),
    )
}
