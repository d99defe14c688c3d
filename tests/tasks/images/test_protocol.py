"""Image classification from pictures to metrics: known answers, parts that share nothing, and declarations that fit."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import Adapter, ModelShape, Settings
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.tasks.base import INPUT, NO_TEXT, BackboneTokenizer, Sources
from hedgebench.tasks.images.any_data import IMAGES
from hedgebench.tasks.images.cifar10 import CIFAR
from hedgebench.tasks.images.digits import DIGITS
from hedgebench.tasks.images.imagenet import IMAGENET1K
from hedgebench.tasks.images.protocol import ImageClassification
from hedgebench.tasks.lra.images import DIGITS as LRA_DIGITS

from ..tiny_pictures import NAMES, write_tiny

TASKS = (DIGITS, CIFAR, IMAGENET1K, IMAGES)
SMALL: Settings = {"dataset": "tiny/shapes"}


class Knowing:
    """A model that gives logits from its inputs, and remembers them."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self.logits = logits
        self.seen: list[Tensor] = []
        self.device = torch.device("cpu")

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.seen.append(inputs)
        return self.logits(inputs)


def answering(logits: Callable[[Tensor], Tensor]) -> Adapter:
    return cast(Adapter, Knowing(logits))


def brightest(inputs: Tensor) -> Tensor:
    """The class of a tiny picture: which third of its rows is bright."""
    rows = inputs.mean((1, 3))
    return torch.stack([rows[:, 0:2].mean(1), rows[:, 3:5].mean(1), rows[:, 6:8].mean(1)], dim=1)


def found(task: ImageClassification, rows: list[dict[str, Any]], settings: Settings) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in task.score(rows, settings)}


@pytest.fixture
def shapes(sources: Sources) -> Sources:
    assert sources.mirror is not None
    write_tiny(sources.mirror)
    return sources


def test_a_model_that_knows_the_answer_is_always_right(shapes: Sources) -> None:
    data = IMAGES.load(SMALL, shapes)
    assert (data.shape.num_classes, data.shape.image_size, data.shape.channels) == (3, 8, 3)
    assert data.shape.labels == NAMES
    metrics = IMAGES.score(IMAGES.predict(answering(brightest), data, {**SMALL, "batch_size": 4}), SMALL)
    assert [(m.name, m.value, m.n) for m in metrics] == [("accuracy", 1.0, 9), ("majority_accuracy", 1 / 3, 9)]


def test_a_model_that_says_one_class_has_the_accuracy_of_that_class(shapes: Sources) -> None:
    data = IMAGES.load(SMALL, shapes)
    rows = IMAGES.predict(answering(lambda x: torch.tensor([[0.0, 2.0, 1.0]]).expand(len(x), 3)), data, SMALL)
    settings = {**SMALL, "more_metrics": "matthews"}
    assert found(IMAGES, rows, SMALL)["accuracy"] == pytest.approx(1 / 3)
    accuracy = IMAGES.score(rows, SMALL)[0]
    assert accuracy.stderr == pytest.approx(math.sqrt(1 / 3 * 2 / 3 / 8))
    with pytest.raises(ValueError, match="cannot be taken of 3 classes"):
        IMAGES.load(settings, shapes)


def test_a_model_that_knows_nothing_has_the_entropy_of_all_classes(shapes: Sources) -> None:
    data = IMAGES.load(SMALL, shapes)
    rows = IMAGES.predict(answering(lambda x: torch.zeros(len(x), 3)), data, SMALL)
    assert [row["nll_nats"] for row in rows] == pytest.approx([math.log(3)] * 9)


def test_a_logit_that_is_no_number_is_refused(shapes: Sources) -> None:
    data = IMAGES.load(SMALL, shapes)
    broken = answering(lambda x: torch.where(x.mean((1, 2, 3))[:, None] > 0, math.nan, torch.zeros(len(x), 3)))
    with pytest.raises(FloatingPointError, match="of 9 rows a logit that is not finite"):
        IMAGES.predict(broken, data, SMALL)


def test_inputs_have_mean_0_and_deviation_1_over_the_training_rows(sources: Sources) -> None:
    data = DIGITS.load({}, sources)
    assert data.train is not None
    assert data.train.pixels is not None
    inputs = data.train.pixels.normalised(torch.from_numpy(np.array(data.train.inputs)))
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-4)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-4)
    assert data.train.inputs.dtype == np.uint8
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 255)
    assert data.test.inputs == data.train.pixels


def test_parts_share_no_picture_and_fewer_rows_are_among_more(sources: Sources) -> None:
    data = DIGITS.load({}, sources)
    assert data.train is not None
    assert data.validation is not None
    parts = [data.train.inputs, data.validation.inputs, data.test.pixels]
    assert [len(part) for part in parts] == [1259, 139, 399]
    every = [{picture.tobytes() for picture in part} for part in parts]
    assert len(set().union(*every)) == sum(map(len, every)) == 1797
    fewer = DIGITS.load({"train_rows": 100, "test_rows": 50}, sources)
    assert fewer.train is not None
    assert (fewer.train.inputs == data.train.inputs[:100]).all()
    assert fewer.validation is not None
    assert (fewer.validation.inputs == data.validation.inputs).all()
    assert {picture.tobytes() for picture in fewer.test.pixels} < every[2]
    assert len(DIGITS.load({}, sources, limit=7).test.labels) == 7


def test_digits_are_tested_on_the_rows_of_the_lra_stand_in(sources: Sources) -> None:
    ours, theirs = DIGITS.load({}, sources).test, LRA_DIGITS.load({}, sources).test
    spread = np.rint(theirs.tokens * (255 / 16))
    pairs = [
        sorted(zip(pixels.reshape(399, 64).tolist(), labels.tolist(), strict=True))
        for pixels, labels in ((ours.pixels, ours.labels), (spread, theirs.labels))
    ]
    assert pairs[0] == pairs[1]


def test_training_varies_pictures_as_settings_say_and_validation_does_not(shapes: Sources) -> None:
    data = IMAGES.load({**SMALL, "flips": True, "shift": 3}, shapes)
    assert data.train is not None
    assert data.validation is not None
    assert data.train.pixels == replace(data.test.inputs, flips=True, shift=3)
    assert data.validation.pixels == data.test.inputs
    assert (data.test.inputs.flips, data.test.inputs.shift) == (False, 0)


def test_pictures_are_resized_to_the_size_that_is_set(shapes: Sources) -> None:
    data = IMAGES.load({**SMALL, "image_size": 12, "channels": 1}, shapes)
    assert (data.shape.image_size, data.shape.channels) == (12, 1)
    assert data.details == {**NO_TEXT, "image_size": 12, "channels": 1, "read_by": "resized"}
    assert data.test.pixels.shape == (9, 1, 12, 12)


def test_samples_hold_the_picture_itself(shapes: Sources) -> None:
    data = IMAGES.load(SMALL, shapes)
    row = IMAGES.predict(answering(brightest), data, SMALL)[5]
    kind, _, content = row[INPUT].partition(",")
    assert kind == "data:image/png;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (shown == data.test.pixels[5].transpose(1, 2, 0)).all()
    assert (row["row"], row["label"]) == (5, 2)


def test_a_model_from_scratch_wants_training_rows_and_a_pretrained_one_does_not(shapes: Sources) -> None:
    with pytest.raises(ValueError, match="train_rows is 0"):
        IMAGES.identify({**SMALL, "train_rows": 0}, shapes)
    planned = replace(shapes, tokenizer=BackboneTokenizer("tiny", "f00d"))
    assert IMAGES.identify({**SMALL, "train_rows": 0}, planned).splits == {"test": 9}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 2}, "channels is 2; allowed: 1 for grey, 3 for RGB"),
        ({"image_size": 0}, "image_size is 0"),
        ({"shift": -1}, "shift is -1"),
        ({"more_metrics": "acuracy"}, "unknown metric 'acuracy'"),
        ({"dataset": ""}, "dataset is not set"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_data_are_read(
    sources: Sources, settings: Settings, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        IMAGES.identify({**SMALL, **settings}, sources)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.info.name))
@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
@pytest.mark.parametrize("model", ["softmax", "hedgehog"])
def test_the_sizes_of_every_scale_fit_its_pictures(task: ImageClassification, scale: str, model: str) -> None:
    chosen = task.info.scales[scale]
    sizes = {"digits": (8, 2), "cifar10": (32, 4), "imagenet1k": (224, 16), "images": (28, 4)}
    size, patch = sizes[task.info.name]
    own = {"dataset": "tiny/shapes"} if task is IMAGES else {}
    settings, _ = task.parse({**chosen.settings, **own})
    assert settings.image_size in (None, size)
    backbone = {**BACKBONES["vit"].sizes[scale], **chosen.backbone}
    if task is IMAGES and scale == "paper":
        size, patch = 224, 16
    assert backbone["patch_size"] == patch
    assert backbone["dropout"] == 0.0
    # Its depth and width change no shape of the inputs, and ViT-B takes a second to build.
    narrow = {**backbone, "layers": 1, "heads": 2, "kv_heads": 2, "width": 8, "mlp_width": 8}
    shape = ModelShape(1, num_classes=10, image_size=size, channels=settings.channels or 1)
    spec = parse_spec(model, registry.mechanisms().get)
    adapter = build_scratch(spec, BACKBONES["vit"], narrow, shape, 0, Precision.of("cpu", "float32"))
    assert adapter.shape.context_length == (size // patch) ** 2 + 1
    assert adapter.class_logits(torch.zeros(2, shape.channels, size, size)).shape == (2, 10)
