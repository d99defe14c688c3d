"""`digits`: the handwritten digits that scikit-learn contains, 8 by 8 grey pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...results.record import DataIdentity
from ..base import Sources, TaskScale
from ..data.image_sets import DIGITS_SPLITS, digits_places, read_digits
from ..heavy import np
from ..settings import as_settings
from .pictures import TRAIN, LabelledPictures, StoredPicture
from .protocol import ImageClassification, image_info
from .settings import PictureSettings

_BRIGHTEST = 16


@dataclass(frozen=True)
class EmbeddedDigits:
    """The digits, their brightness of 0 to 16 spread over 0 to 255; test rows are those of `lra/digits`."""

    def identify(self, roles: Sequence[str], sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The hash of all pictures and their labels."""
        pixels, labels = read_digits()
        content = hashlib.sha256(pixels.tobytes() + labels.astype("<i4").tobytes())
        rows = {role: len(_places(role)) for role in roles}
        return DataIdentity("digits", "1", content.hexdigest(), "embedded", rows)

    def split(self, role: str, sources: Sources) -> LabelledPictures:  # noqa: ARG002
        """One split."""
        (pixels, labels), places = read_digits(), _places(role)
        bright = np.rint(pixels[places] * (255 / _BRIGHTEST)).astype(np.uint8).reshape(-1, 8, 8)

        def fetch(chosen: Sequence[int]) -> list[StoredPicture]:
            return [bright[place] for place in chosen]

        return LabelledPictures(fetch, labels[places], tuple("0123456789"))


def _places(role: str) -> Sequence[int]:
    names = [name for name in DIGITS_SPLITS if name != "test"] if role == TRAIN else ["test"]
    return [place for name in names for place in digits_places(name).tolist()]


_SIZE = {"layers": 2, "heads": 4, "kv_heads": 4, "width": 64, "mlp_width": 128, "patch_size": 2}

DIGITS = ImageClassification(
    image_info(
        name="digits",
        summary="Which digit do 8 by 8 grey pixels show? (accuracy)",
        data=("scikit-learn/digits",),
        licence="CC-BY-4.0",
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
        scales={
            "smoke": TaskScale(
                as_settings(PictureSettings()),
                train={"steps": 300, "batch_size": 32, "lr": 2e-3, "eval_every": 50},
                backbone=_SIZE,
            ),
            "small": TaskScale(
                as_settings(PictureSettings()),
                train={"steps": 1_500, "batch_size": 32, "lr": 2e-3, "eval_every": 100},
                backbone=_SIZE,
            ),
            "paper": TaskScale(
                as_settings(PictureSettings()),
                train={"steps": 5_000, "batch_size": 64, "lr": 1e-3, "eval_every": 100},
                backbone={**_SIZE, "layers": 4, "width": 128, "mlp_width": 512},
            ),
        },
    ),
    EmbeddedDigits(),
)
