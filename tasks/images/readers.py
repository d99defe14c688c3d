"""From pictures to pixels of one size: plain resizing, or the image processor of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...adapters.base import PixelInputs, UnsupportedError
from ..base import BackboneTokenizer
from ..heavy import NDArray, np
from .pictures import LabelledPictures, StoredPicture, is_grey, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

PROCESSOR = "preprocessor_config.json"
"""File of a checkpoint that says how its pictures are read."""

_LOOKED_AT = 100
"""Training pictures that are asked for a colour."""


class PictureReader(Protocol):
    """Turns pictures into pixels of one size."""

    @property
    def key(self) -> str:
        """All that the pixels depend on besides the picture."""
        ...

    @property
    def inputs(self) -> PixelInputs | None:
        """How the pixels are normalised; None for the mean and deviation of the training pixels."""
        ...

    def read(self, picture: Image) -> NDArray[np.uint8]:
        """Pixels `[channels, height, width]`."""
        ...


@dataclass(frozen=True)
class Resized:
    """Pictures stretched to a square by bilinear interpolation over the area that a pixel covers (PIL's `BILINEAR`).

    Attributes:
        size: Height and width in pixels.
        channels: 1 for grey, by the weights of ITU-R 601, or 3 for RGB.
    """

    size: int
    channels: int
    inputs: None = None

    @property
    def key(self) -> str:
        """All that the pixels depend on besides the picture."""
        return repr(self)

    def read(self, picture: Image) -> NDArray[np.uint8]:
        """Pixels `[channels, height, width]`."""
        from PIL.Image import Resampling

        converted = picture.convert("L" if self.channels == 1 else "RGB")
        if converted.size != (self.size, self.size):
            converted = converted.resize((self.size, self.size), Resampling.BILINEAR)
        pixels = np.asarray(converted, np.uint8)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


@dataclass(frozen=True)
class Processed:
    """Pictures in RGB as the image processor of a checkpoint resizes and crops them, in its form that uses PIL.

    Attributes:
        backbone: Name of the pretrained backbone.
        fingerprint: That of its checkpoint.
        folder: The checkpoint's folder.

    Raises:
        UnsupportedError: The checkpoint does not say how its pictures are read.
    """

    backbone: str
    fingerprint: str
    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / PROCESSOR).is_file():
            raise UnsupportedError(
                f"backbone {self.backbone} has no {PROCESSOR}, which says how its pictures are resized and normalised; "
                "copy that of the model that it was made from"
            )

    @property
    def key(self) -> str:
        """All that the pixels depend on besides the picture."""
        import transformers

        return f"{self.fingerprint} {transformers.__version__}"

    @cached_property
    def processor(self) -> Any:
        """The image processor."""
        import transformers

        with_pil: dict[str, Any] = {"backend": "pil"}
        if int(transformers.__version__.partition(".")[0]) < 5:
            with_pil = {"use_fast": False}
        auto: Any = transformers.AutoImageProcessor
        return auto.from_pretrained(self.folder, local_files_only=True, **with_pil)

    @property
    def inputs(self) -> PixelInputs:
        """The processor's normalisation, in units of 8-bit pixels."""
        processor = self.processor
        factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
        mean, std = (tuple(float(value) / factor for value in each) for each in (mean, std))
        return PixelInputs(mean, std)

    def read(self, picture: Image) -> NDArray[np.uint8]:
        """Pixels `[3, height, width]`."""
        given = self.processor(picture.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="np")
        pixels: NDArray[np.uint8] = given["pixel_values"][0]
        return pixels


def reader_for(
    backbone: BackboneTokenizer | None, size: int | None, channels: int | None, pictures: LabelledPictures
) -> PictureReader:
    """The reader of a checkpoint or, for a model from scratch, of these sizes.

    Args:
        backbone: The pretrained backbone, with its folder; None for a model from scratch.
        size: Pixels of a side; None for those of the first picture, or of the checkpoint.
        channels: 1 or 3; None for 3 if one of the first pictures has a colour, or those of the checkpoint.
        pictures: The pictures that the model is trained on.

    Raises:
        UnsupportedError: The checkpoint does not say how its pictures are read, or reads them in other sizes.
        ValueError: No size is given, and the first picture is not square.
    """
    if backbone is not None:
        assert backbone.folder is not None
        processed = Processed(backbone.name, backbone.fingerprint, backbone.folder)
        found = processed.read(open_picture(pictures.fetch([0])[0])).shape
        if found != (channels or found[0], size or found[1], size or found[1]):
            raise UnsupportedError(
                f"backbone {backbone.name} reads pictures as {found[0]} channels of {found[1]} by {found[2]} pixels; "
                f"set image_size=none and channels=none, or choose another backbone (image_size is {size}, channels is "
                f"{channels}; pictures must be square)"
            )
        return processed
    first = pictures.fetch(range(min(len(pictures.labels), _LOOKED_AT)))
    return Resized(size or _side_of(first[0]), channels or _channels_of(first))


def _side_of(stored: StoredPicture) -> int:
    width, height = open_picture(stored).size
    if width != height:
        raise ValueError(f"the first picture has {width} by {height} pixels; set image_size, to which all are resized")
    return width


def _channels_of(pictures: Sequence[StoredPicture]) -> int:
    return 1 if all(is_grey(open_picture(stored)) for stored in pictures) else 3
