"""The artefacts of the paper: its tables and figures, and how it measured them, as far as a source says.

Tables 4 to 8 and the figures are numbered from memory: sources that were read print only the other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from .declarations import Artefact, Fact, Setup, Unstated
from .studies import CONTROL, PRIOR

_A6000 = Fact("one A6000 GPU", "A6000")
_COLA = Fact("GLUE CoLA", "nyu-mll/glue/cola")
_BERT = Fact("BERT-base, 110M parameters, fine-tuned on the task", "bert-base")
_SEEDS = Unstated("seeds")
_SCHEDULE = Unstated("schedule and weight decay", ("train.weight_decay", "finetune.weight_decay", "lora.weight_decay"))
_PERFORMER = Unstated("Performer's features, and whether they are drawn anew")
_CONVERSION = (
    Unstated(
        "learning rates (0.01 for maps and 1e-5 for fine-tuning are remembered)",
        ("teacher.lr", "distill.lr", "finetune.lr"),
    ),
    Unstated("batch sizes", ("teacher.batch_size", "distill.batch_size", "finetune.batch_size")),
    Unstated("epochs", ("teacher.epochs", "distill.epochs", "finetune.epochs")),
    Unstated("which experiments stop after 10 epochs without improvement", ("train.patience", "finetune.patience")),
    _SCHEDULE,
    _SEEDS,
)
_SCRATCH = (
    Unstated("optimiser"),
    Unstated("learning rate", ("train.lr",)),
    Unstated("batch size", ("train.batch_size",)),
    Unstated("steps", ("train.steps",)),
    _SCHEDULE,
    _SEEDS,
)
_RECALL = (
    Unstated("vocabulary and length of recall (40 and 128 are remembered)", ("task.vocab_size", "task.length")),
    Unstated("layers, heads and width of recall", ("backbone.layers", "backbone.heads", "backbone.width")),
)
_FINETUNED = Setup(_BERT, _COLA, unstated=(*_CONVERSION, _PERFORMER))
_WIKITEXT = Fact("WikiText-103", "wikitext-103")
_RECALL_AND_COLA = Setup(
    Fact("not stated for recall; BERT-base, 110M parameters, for CoLA"),
    Fact("associative recall, 10,000 training and 2,000 test samples; GLUE CoLA", "nyu-mll/glue/cola"),
    unstated=(*_RECALL, *_SCRATCH[:4], *_CONVERSION, _PERFORMER),
)
_DIVERGENCE = Unstated("samples and lengths that divergence is measured on", ("task.windows", "task.lengths"))
_EFFICIENCY = Setup(
    unstated=(
        Unstated("device"),
        Unstated("batch, heads and longest input", ("task.batch_size", "backbone.heads", "task.seq_lens")),
    )
)

_ON_COLA = Setup(_BERT, _COLA, unstated=(*_CONVERSION, _DIVERGENCE))
_ON_OTHER_TEXT = Setup(
    _BERT,
    Fact("maps distilled on CoLA and on WikiText-103; other GLUE sets; longer inputs"),
    unstated=(*_CONVERSION, _DIVERGENCE),
)

_TABLES = (
    Artefact(
        "table-1",
        "Conversion of a fine-tuned encoder on CoLA: prior feature maps",
        ("cola",),
        _FINETUNED,
        models=("softmax", CONTROL, *PRIOR),
    ),
    Artefact(
        "table-2",
        "Feature maps: recall from scratch, and conversion on CoLA",
        ("recall", "cola"),
        _RECALL_AND_COLA,
        models=("softmax", *PRIOR, "taylor"),
    ),
    Artefact(
        "table-3",
        "Hedgehog beside softmax and the best prior map",
        ("recall", "cola"),
        _RECALL_AND_COLA,
        models=("softmax", "taylor", "hedgehog"),
    ),
    Artefact(
        "table-4",
        "Attention fidelity of an encoder's maps, and what distillation adds to it",
        ("fidelity-cola",),
        _ON_COLA,
        metrics=("attention_kl", "attention_kl_from_teacher", "attention_entropy", "attention_monotonicity"),
    ),
    Artefact(
        "table-5",
        "Attention fidelity on other text and longer inputs than the maps were distilled on",
        ("fidelity-cola", "fidelity-text"),
        _ON_OTHER_TEXT,
        metrics=("attention_kl_at",),
    ),
    Artefact(
        "table-6",
        "Long Range Arena, from scratch",
        ("lra",),
        Setup(
            Fact("2 layers, after the PyTorch recipe of the Nystromformer (remembered)"),
            Fact("Long Range Arena"),
            unstated=(Unstated("heads and width", ("backbone.heads", "backbone.width")), *_SCRATCH, _PERFORMER),
        ),
    ),
    Artefact(
        "table-7",
        "Language models trained from scratch",
        ("language",),
        Setup(
            Fact("GPT-2's shape, 125M parameters"),
            _WIKITEXT,
            unstated=(
                Unstated("context (1,024 tokens are remembered)", ("task.context_length",)),
                *_SCRATCH,
                _PERFORMER,
            ),
        ),
    ),
    Artefact(
        "table-8",
        "Conversion of fine-tuned encoders on GLUE",
        ("glue",),
        Setup(
            _BERT,
            Fact("eight tasks of GLUE, validation", "nyu-mll/glue"),
            unstated=(*_CONVERSION, Unstated("metrics of all tasks but CoLA, and which of MNLI's two sets")),
        ),
    ),
    Artefact(
        "table-9",
        "Conversion of image classifiers",
        ("images", "vit-b16"),
        Setup(
            Fact("ViT-B/16, 86M parameters", "vit-b16"),
            Fact("ImageNet-1K", "imagenet"),
            unstated=(Unstated("pixels (224 are remembered) and augmentation", ("task.image_size",)), *_CONVERSION),
        ),
    ),
    Artefact(
        "table-10",
        "Conversion of language models",
        ("language-conversion", "gpt2"),
        Setup(
            Fact("GPT-2, 125M parameters", "gpt2"),
            Fact("WikiText-103, 1,024 tokens", "wikitext-103"),
            Fact("2 epochs of distillation, 8 inputs a step; fine-tuning at a rate of 6e-4"),
            unstated=(
                Unstated("learning rate of distillation", ("distill.lr",)),
                Unstated("batch size and epochs of fine-tuning", ("finetune.batch_size", "finetune.epochs")),
                _SCHEDULE,
                _SEEDS,
            ),
        ),
    ),
    Artefact(
        "table-11",
        "Conversion of a large language model with low-rank adapters: summaries",
        ("samsum", "samsum-zero-shot"),
        Setup(
            Fact("Llama-2-7B", "llama2-7b"),
            Fact("SAMSum", "samsum"),
            Fact("2 epochs of distillation; LoRA of rank 8 and alpha 16"),
            _A6000,
            unstated=(
                Unstated("learning rates", ("distill.lr", "lora.lr")),
                Unstated("batch sizes", ("distill.batch_size", "lora.batch_size")),
                Unstated("epochs of fine-tuning with LoRA", ("lora.epochs",)),
                Unstated("longest input and prompt", ("task.context_length", "task.prompt")),
                Unstated("decoding", ("task.temperature", "task.max_new_tokens")),
                Unstated("implementation of ROUGE", ("task.rouge_tokenizer",)),
                _SCHEDULE,
                _SEEDS,
            ),
        ),
        metrics=("rouge1", "rouge2", "rougeL"),
    ),
    Artefact(
        "ablations",
        "What each part of Hedgehog adds in the conversion of a language model",
        ("language-conversion",),
        plots=("quality", "divergence"),
        note="No number of the paper's own ablation is known.",
    ),
)


_FIGURES = tuple(
    Artefact(f"figure-{number}", title, (study,), setup, plots=(plot,), has_table=False)
    for number, title, study, plot, setup in (
        (2, "Entropy of attention rows by layer", "fidelity-cola", "layers", _FINETUNED),
        (3, "Attention weight against q·k", "fidelity-cola", "products", _FINETUNED),
        (4, "Recall against the entropy of attention", "recall", "entropy", Setup(unstated=(*_RECALL, *_SCRATCH))),
        (6, "Time and memory against sequence length", "efficiency", "figure6", _EFFICIENCY),
        (7, "Attention maps", "fidelity-cola", "maps", _FINETUNED),
        (8, "Divergence from softmax on text of another kind", "fidelity-cola", "lengths", _ON_COLA),
        (9, "Divergence from softmax against length", "fidelity-text", "lengths", _ON_OTHER_TEXT),
    )
)

ARTEFACTS: Mapping[str, Artefact] = {artefact.id: artefact for artefact in (*_TABLES, *_FIGURES)}
