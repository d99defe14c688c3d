"""`lra/image`, CIFAR-10 in grey pixels, and `lra/digits`, the small digits that scikit-learn contains.

A colour picture becomes grey by the weights of ITU-R 601 (0.299 R + 0.587 G + 0.114 B), as in the benchmark. 5,000
training rows of CIFAR-10, drawn with a fixed seed, select the checkpoint.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...adapters.base import ModelShape, Settings
from ...results.record import DataIdentity
from ..base import Sources
from ..data.image_sets import CIFAR10, DIGITS_SPLITS, digits_places, read_digits
from ..data.sources import DatasetId, identify_dataset, read_split
from ..heavy import NDArray, np
from .protocol import SequenceClassification, SequenceSettings, lra_info
from .sequences import SequenceCache, Sequences

HELD_OUT_ROWS = 5_000
_PAPER_BATCHES: Settings = {"batch_size": 256, "eval_rows": HELD_OUT_ROWS, "eval_batch_size": 256}
_READER_VERSION = "1"
_PIXELS = 32
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class ImageSettings(SequenceSettings):
    """Which pictures are read.

    Attributes:
        train_rows: Training rows, drawn with a fixed seed from those that are not held out; None for all.
        validation_rows: Rows held out of the training split, at most a tenth of it, to select the checkpoint.
        test_rows: Test rows, drawn with a fixed seed; None for all.
    """

    train_rows: int | None = None
    validation_rows: int = HELD_OUT_ROWS
    test_rows: int | None = None


@dataclass(frozen=True)
class GreyPictures:
    """Pictures of 32 by 32 pixels, as 1,024 tokens from 0 to 255, line by line.

    Attributes:
        dataset: A data set with the splits `train` and `test` and the columns `img` (encoded pictures) and `label`.
    """

    dataset: DatasetId

    def identify(self, chosen: ImageSettings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The data set."""
        return identify_dataset(self.dataset, sources)

    def split(self, name: str, chosen: ImageSettings, sources: Sources) -> Sequences:
        """The chosen rows of a split."""
        key = f"{_READER_VERSION} {identify_dataset(self.dataset, sources).fingerprint}"
        cache = SequenceCache.keyed("grey-pictures", key, sources, lambda: self._decode(sources))
        whole = cache.split("test" if name == "test" else "train")
        places = np.random.default_rng(_SHUFFLE_SEED).permutation(len(whole))
        rest = len(whole) - min(len(whole) // 10, chosen.validation_rows)
        parts = {
            "train": places[:rest][: chosen.train_rows],
            "validation": places[rest:],
            "test": np.sort(places[: chosen.test_rows]),
        }
        return Sequences(whole.tokens[parts[name]], whole.labels[parts[name]])

    def _decode(self, sources: Sources) -> Mapping[str, Sequences]:
        import datasets

        splits = {}
        for split in self.dataset.splits:
            rows = read_split(self.dataset, split, sources).cast_column("img", datasets.Image(decode=False))
            tokens = grey_pixels(picture["bytes"] for picture in rows["img"])
            splits[split] = Sequences(tokens, np.array(rows["label"][:], np.int32))
        return splits


def grey_pixels(pictures: Iterable[bytes]) -> NDArray[np.uint8]:
    """Encoded pictures, such as PNG, as grey pixels `[rows, height * width]`.

    Raises:
        ValueError: A picture is not 32 by 32.
    """
    from PIL import Image

    rows = []
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            if image.size != (_PIXELS, _PIXELS):
                raise ValueError(f"a picture has {image.size[0]} by {image.size[1]} pixels; expected 32 by 32")
            rows.append(np.asarray(image.convert("L"), np.uint8).reshape(-1))
    return np.stack(rows)


class Digits:
    """The handwritten digits of scikit-learn, 8 by 8 pixels from 0 to 16, in splits drawn with a fixed seed."""

    def identify(self, chosen: SequenceSettings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The hash of all pictures and their labels."""
        pixels, labels = read_digits()
        content = hashlib.sha256(pixels.tobytes() + labels.astype("<i4").tobytes())
        return DataIdentity("digits", "1", content.hexdigest(), "embedded", DIGITS_SPLITS)

    def split(self, name: str, chosen: SequenceSettings, sources: Sources) -> Sequences:  # noqa: ARG002
        """One split."""
        (pixels, labels), places = read_digits(), digits_places(name)
        return Sequences(pixels[places], labels[places])


IMAGE = SequenceClassification(
    lra_info(
        "image",
        "what does a small photograph show, in grey pixels?",
        data=CIFAR10.pinned,
        citation="Krizhevsky, CIFAR-10, 2009",
        scales={
            "smoke": (
                ImageSettings(train_rows=500, validation_rows=100, test_rows=200),
                {"steps": 10, "batch_size": 16, "eval_every": 5, "eval_rows": 100},
            ),
            "small": (
                ImageSettings(train_rows=10_000, validation_rows=500, test_rows=2_000),
                {"steps": 1_500, "batch_size": 32, "eval_every": 250},
            ),
            "paper": (ImageSettings(), {"steps": 35_000, "warmup": 0.005, "eval_every": 175, **_PAPER_BATCHES}),
        },
    ),
    ImageSettings,
    lambda _: ModelShape(context_length=_PIXELS**2, vocab_size=256, num_classes=10),
    GreyPictures(CIFAR10),
)

DIGITS = SequenceClassification(
    lra_info(
        "digits",
        "which digit, in 64 grey pixels? Stands in for lra/image; no task of the benchmark",
        data="scikit-learn/digits",
        licence="CC-BY-4.0",
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
        scales={
            "smoke": (SequenceSettings(), {"steps": 100, "lr": 3e-3, "eval_every": 20}),
            "small": (SequenceSettings(), {"steps": 2_000, "eval_every": 100}),
            "paper": (SequenceSettings(), {"steps": 5_000, "lr": 1e-3, "eval_every": 100}),
        },
        train={"batch_size": 32},
    ),
    SequenceSettings,
    lambda _: ModelShape(context_length=64, vocab_size=17, num_classes=10),
    Digits(),
)
