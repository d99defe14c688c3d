"""Classification of images: the protocol that all such data sets share.

Models are trained on the training split, tested on the test split, and choose their checkpoint on a part of the
training split: after a shuffle with a fixed seed its last tenth, but at most 5,000 rows, is held out.

Models from scratch read pictures stretched to a square of `image_size` pixels and normalised by the mean and the
standard deviation of each channel over the training rows. A pretrained model reads them as the image processor of its
checkpoint resizes, crops and normalises them. Training may mirror and move pictures at random (`flips`, `shift`);
nothing else varies them, and test pictures are never varied. Pixels are kept as bytes and become numbers a batch at a
time.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...adapters.base import Adapter, Capability, Examples, ModelShape, PixelInputs, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, INPUT, NO_TEXT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..data.sources import shuffled_places
from ..heavy import NDArray, Tensor, np, torch
from ..metrics.classification import majority_accuracy, measure
from ..metrics.requested import check_classes, measure_classes, try_metrics
from ..settings import as_settings, parse_settings
from .pictures import TEST, TRAIN, LabelledPictures, PictureSource
from .readers import reader_for
from .settings import AnyPictureSettings, PictureSettings
from .store import PixelStore

HELD_OUT_ROWS = 5_000
LARGEST_SAMPLE = 64
"""Pixels of a side up to which samples hold the picture itself; of larger ones they have the place alone."""

MOST_LOGITS = 100
"""Classes up to which rows hold the logits: those of ImageNet would be a gigabyte."""

_READER_VERSION = "1"

RECIPES = (*FROM_SCRATCH, "finetuned-conversion", "pretrained-conversion", "zero-shot")

SCALES: Mapping[str, TaskScale] = {
    "smoke": TaskScale(
        as_settings(PictureSettings(train_rows=1_000, test_rows=500)),
        train={"steps": 60, "batch_size": 32, "eval_rows": 100},
    ),
    "small": TaskScale(
        as_settings(PictureSettings(train_rows=10_000, test_rows=5_000)),
        train={"steps": 6_000, "batch_size": 32, "lr": 2e-3, "eval_every": 500},
        backbone={"layers": 2, "heads": 4, "kv_heads": 4, "width": 64, "mlp_width": 128},
    ),
    "paper": TaskScale(as_settings(PictureSettings()), train={"eval_rows": HELD_OUT_ROWS}),
}

image_info = functools.partial(
    TaskInfo,
    version=1,
    main_metric="accuracy",
    needs=frozenset({Capability.CLASSIFIER}),
    backbone="vit",
    recipes=RECIPES,
    scales=SCALES,
)
"""Declares a task on images: a `TaskInfo` that lacks `name`, `summary`, `data`, `licence` and `citation`."""


@dataclass(frozen=True)
class EvaluationPictures:
    """The test pictures, as `predict` reads them.

    Attributes:
        pixels: Their pixels, `[rows, channels, height, width]`, mapped into memory.
        labels: Class ids, `[rows]`.
        places: Place of each in the test split.
        inputs: How pixels become inputs.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32]
    places: Sequence[int]
    inputs: PixelInputs

    def batch(self, start: int, size: int, device: torch.device) -> Tensor:
        """The inputs of some rows, on a device."""
        pixels = np.array(self.pixels[start : start + size])  # torch warns of a map that cannot be written
        return self.inputs.normalised(torch.as_tensor(pixels, device=device))


@dataclass(frozen=True)
class ImageClassification:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        source: The pictures; None for those that the settings name.
    """

    info: TaskInfo
    source: PictureSource | None = None

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which pictures `load` would read.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: A setting is wrong, or there are no training pictures to normalise the others by.
        """
        chosen, source = self.parse(settings)
        check_classes(chosen.more_metrics, num_classes=2)  # `load` knows how many there are; all metrics take two
        if chosen.train_rows == 0 and sources.tokenizer is None:
            raise ValueError("train_rows is 0; allowed: 1 or more, as a model from scratch is trained on them")
        return source.identify(_roles(chosen), sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Decodes the pictures; `test` is an `EvaluationPictures` of the first `limit` rows.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
            UnsupportedError: The pretrained backbone cannot read them.
            ValueError: A row has no label or no picture, or a requested metric does not fit the number of classes.
        """
        chosen, source = self.parse(settings)
        splits = {role: source.split(role, sources) for role in _roles(chosen)}
        first = next(iter(splits.values()))
        classes = len(first.names)
        check_classes(chosen.more_metrics, classes)
        try_metrics(chosen.more_metrics, list(range(classes)))
        reader = reader_for(sources.tokenizer, chosen.image_size, chosen.channels, first)
        key = f"{_READER_VERSION} {source.identify(_roles(chosen), sources).fingerprint} {source} {reader.key}"
        store = PixelStore(sources.cache / "pixels" / hashlib.sha256(key.encode()).hexdigest()[:16], reader)
        parts = {name: (splits[role], places) for name, (role, places) in _places(splits, chosen).items() if places}
        pixels = {name: store.pixels(name, *part) for name, part in parts.items()}
        inputs = reader.inputs or PixelInputs(*store.moments(TRAIN, pixels[TRAIN]))
        pictures, places = parts[TEST]
        labels = pictures.with_classes(first.names).labels[places]
        channels, size = pixels[TEST].shape[1:3]
        varied = replace(inputs, flips=chosen.flips, shift=chosen.shift)
        return TaskData(
            ModelShape(1, num_classes=classes, image_size=size, channels=channels, labels=first.names),
            EvaluationPictures(pixels[TEST][:limit], labels[:limit], places[:limit], inputs),
            _examples(TRAIN, parts, pixels, varied),
            _examples("held_out", parts, pixels, inputs),
            details={**NO_TEXT, "image_size": size, "channels": channels, "read_by": type(reader).__name__.lower()},
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The likeliest class of each test picture, and the negative log-likelihood of the right one.

        Raises:
            FloatingPointError: The model gives a logit that is not finite.
        """
        size, test = self.parse(settings)[0].batch_size, data.test
        starts = range(0, len(test.labels), size)
        logits = torch.cat([adapter.class_logits(test.batch(start, size, adapter.device)).cpu() for start in starts])
        if broken := int((~logits.isfinite()).any(dim=1).sum()):
            raise FloatingPointError(f"the model gives {broken} of {len(logits)} rows a logit that is not finite")
        return list(_rows(test, logits))

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Accuracy, that of always answering with the most frequent class, and what `more_metrics` adds."""
        labels, predictions = ([row[key] for row in rows] for key in ("label", "prediction"))
        further = self.parse(settings)[0].more_metrics
        return [
            measure("accuracy", labels, predictions),
            majority_accuracy(labels),
            *measure_classes(further, labels, predictions, ("accuracy",)),
        ]

    def parse(self, settings: Settings) -> tuple[PictureSettings, PictureSource]:
        """The settings, and the pictures that they are of.

        Raises:
            ValueError: A setting is wrong.
        """
        if self.source is not None:
            return parse_settings(PictureSettings, settings), self.source
        chosen = parse_settings(AnyPictureSettings, settings)
        return chosen, chosen.source


def _roles(chosen: PictureSettings) -> tuple[str, ...]:
    return (TEST,) if chosen.train_rows == 0 else (TRAIN, TEST)


def _places(splits: Mapping[str, LabelledPictures], chosen: PictureSettings) -> Mapping[str, tuple[str, Sequence[int]]]:
    """The split and the places of each part's rows; test rows come in their order in the split."""
    shuffled = {role: shuffled_places(len(split.labels)) for role, split in splits.items()}
    parts: dict[str, tuple[str, Sequence[int]]] = {TEST: (TEST, sorted(shuffled[TEST][: chosen.test_rows]))}
    if TRAIN in splits:
        rest = len(shuffled[TRAIN]) - min(len(shuffled[TRAIN]) // 10, HELD_OUT_ROWS)
        parts[TRAIN] = TRAIN, shuffled[TRAIN][:rest][: chosen.train_rows]
        parts["held_out"] = TRAIN, shuffled[TRAIN][rest:]
    return parts


def _examples(
    name: str,
    parts: Mapping[str, tuple[LabelledPictures, Sequence[int]]],
    pixels: Mapping[str, NDArray[np.uint8]],
    inputs: PixelInputs,
) -> Examples | None:
    """A part as training reads it; None if it has no rows."""
    if name not in parts:
        return None
    pictures, places = parts[name]
    return Examples(pixels[name], pictures.labels[places], pixels=inputs)


def _rows(test: EvaluationPictures, logits: Any) -> Iterator[Row]:
    nlls = torch.nn.functional.cross_entropy(logits, torch.as_tensor(test.labels).long(), reduction="none").tolist()
    predictions = logits.argmax(dim=1).tolist()
    for i, (label, prediction, nll_nats) in enumerate(zip(test.labels.tolist(), predictions, nlls, strict=True)):
        row: Row = {"row": test.places[i], "label": label, "prediction": prediction, "nll_nats": nll_nats}
        if logits.shape[1] <= MOST_LOGITS:
            row["logits"] = logits[i].tolist()
        if max(test.pixels.shape[2:]) <= LARGEST_SAMPLE:
            row[INPUT] = _as_png(test.pixels[i])
        yield row


def _as_png(pixels: NDArray[np.uint8]) -> str:
    """A picture `[channels, height, width]` as a PNG in a `data:` address, which browsers show."""
    from PIL import Image

    file = io.BytesIO()
    picture = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
