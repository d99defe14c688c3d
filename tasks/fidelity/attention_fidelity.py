"""How faithfully a mechanism's attention weights follow softmax's, on text: the paper's spikiness and monotonicity.

Every layer's queries and keys come from the model as it runs. Its weights are compared first with softmax over the same
queries and keys (paper §4 and appendix B), so a layer's measures depend on its own feature maps and not on what earlier
layers changed in its input. Then the teacher reads the same text by itself, and the weights are compared with the
teacher's own: this measures the whole effect of conversion, fine-tuning included. The teacher is the softmax model
before conversion, fine-tuned by its recipe's teacher stage if the recipe has one. Models trained with their
own attention and checkpoints that were converted before have no teacher; their records say so and have no metric of a
teacher.
`measures.py` defines the measures and says why they were chosen.

Measures are taken on the test text of the corpus that maps were distilled on and on another corpus (Python's standard
library), at each of `lengths`, which may be longer than the rows in training: the paper's generalisation study.
`attention_fidelity_cola` is the same for encoders: on CoLA's sentences, which the paper's BERT was fine-tuned on, on
the pairs of MRPC, and on rows of many sentences. `attention_fidelity_digits` and `attention_fidelity_images` are the
same for images, on test pictures of the task `digits` and of the data set that a user names; a row's length is the
number of patches and the class token.

Conversions end with distillation here unless `finetune.steps` (or `lora.steps`) asks for more. The base weights are
then those of the softmax teacher, and the measures say how well maps mimic it, which fine-tuning does not aim at.

Beside the measures, predictions hold the weights of a few heads over the first tokens of the test text, for the plots
of `results/plots/fidelity.py`. No score uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...adapters.base import Capability, Settings
from ..base import TaskScale
from ..classification.glue import COLA, MRPC
from ..classification.text_classification import text_info
from ..images.any_data import IMAGES
from ..images.digits import DIGITS
from ..images.protocol import ImageClassification, image_info
from ..language.perplexity import corpus_info
from ..language.stdlib import STDLIB
from ..language.wikitext import WIKITEXT2
from ..settings import as_settings
from .pictures import PictureFidelity, PictureFidelitySettings
from .protocol import FidelitySettings
from .sentences import SentenceFidelity, SentenceSettings
from .streams import StreamFidelity, StreamSettings

_DISTILLED_ONLY: dict[str, Settings] = {stage: {"steps": 0, "epochs": 0.0} for stage in ("finetune", "lora")}


def _scales(settings: Mapping[str, FidelitySettings], task: Mapping[str, TaskScale]) -> dict[str, TaskScale]:
    """Scales with settings of their own, whose models are trained as those of a task and not fine-tuned."""
    return {
        scale: replace(task[scale], settings=as_settings(chosen), stages={**task[scale].stages, **_DISTILLED_ONLY})
        for scale, chosen in settings.items()
    }


ATTENTION_FIDELITY = StreamFidelity(
    corpus_info(
        name="attention_fidelity",
        version=3,
        summary="Divergence, spikiness, monotonicity and overlap of attention weights against softmax's, on text",
        main_metric="attention_kl",
        data=(*WIKITEXT2.info.data, *STDLIB.info.data),
        licence="CC BY-SA 3.0",
        citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, sections 3 and 5.1",
        needs=frozenset({Capability.LANGUAGE_MODEL, Capability.ATTENTION_WEIGHTS}),
        scales=_scales(
            {
                "smoke": StreamSettings(
                    context_length=128, lengths=(128, 256), windows=2, tokenizer="bpe:1024", train_bytes=1_000_000
                ),
                "small": StreamSettings(context_length=128, lengths=(128, 256, 512, 1024), tokenizer="bpe:2048"),
                "paper": StreamSettings(context_length=1024, lengths=(1024, 256, 512, 2048, 4096), windows=8),
            },
            {"smoke": TaskScale(train={"steps": 60}), "small": TaskScale(), "paper": TaskScale()},
        ),
    ),
    trained_on=("wikitext2", WIKITEXT2),
    others=(("stdlib", STDLIB.corpus),),
)

ATTENTION_FIDELITY_COLA = SentenceFidelity(
    text_info(
        name="attention_fidelity_cola",
        summary="Divergence, spikiness, monotonicity and overlap of an encoder's attention weights, on sentences",
        main_metric="attention_kl",
        data=(*COLA.info.data, *MRPC.info.data),
        licence="that of the original data sets",
        citation=f"Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, section 3; {COLA.info.citation}",
        needs=frozenset({Capability.CLASSIFIER, Capability.ATTENTION_WEIGHTS}),
        scales=_scales(
            {
                "smoke": SentenceSettings(
                    max_length=64, lengths=(64, 128), windows=2, texts=8, tokenizer="bpe:1024", train_rows=512
                ),
                "small": SentenceSettings(train_rows=10_000),
                "paper": SentenceSettings(tokenizer="bpe:16384"),
            },
            COLA.info.scales,
        ),
    ),
    trained_on=("cola", COLA),
    others=(("mrpc", MRPC),),
)


def _picture_fidelity(name: str, summary: str, corpus: str, task: ImageClassification) -> PictureFidelity:
    """Fidelity on the pictures of a task, with models of its sizes, trained as it trains them."""
    own = as_settings(PictureFidelitySettings())
    info = image_info(
        name=f"attention_fidelity_{name}",
        summary=f"Divergence, spikiness, monotonicity and overlap of attention weights on {summary}",
        main_metric="attention_kl",
        data=task.info.data,
        licence=task.info.licence,
        citation=f"Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, section 3; {task.info.citation}",
        needs=frozenset({Capability.CLASSIFIER, Capability.ATTENTION_WEIGHTS}),
        scales={
            scale: replace(given, settings={**given.settings, **own}, stages={**given.stages, **_DISTILLED_ONLY})
            for scale, given in task.info.scales.items()
        },
    )
    return PictureFidelity(info, corpus, task)


ATTENTION_FIDELITY_DIGITS = _picture_fidelity("digits", "handwritten digits", "digits", DIGITS)
ATTENTION_FIDELITY_IMAGES = _picture_fidelity("images", "pictures of a data set that you name", "", IMAGES)
