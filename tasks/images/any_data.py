"""`images`: any labelled pictures, in the layout of the hub or in a local folder, named by settings.

    bench run --tasks images:dataset=ORG/NAME --mirror DIR ...
    bench run --tasks images:dataset=/FOLDER ...

`AnyPictureSettings` lists the settings: columns, splits, sizes. The default backbone cuts pictures into patches of 4
by 4 pixels (16 by 16 at `paper` scale), 49 of them at 28 pixels; `--set backbone.patch_size=N` takes another size,
which must divide that of the pictures. Training moves pictures by up to 2 pixels, and mirrors them only with
`flips=true`, as a mirrored digit or letter is another one.
"""

from __future__ import annotations

from dataclasses import replace

from ..settings import as_settings
from .protocol import SCALES, ImageClassification, image_info
from .settings import AnyPictureSettings

IMAGES = ImageClassification(
    image_info(
        name="images",
        summary="Which class does a picture of any labelled data set belong to? Name it: images:dataset=ORG/NAME",
        data=("named by the setting dataset",),
        licence="that of the data set",
        citation="Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929",
        scales={
            scale: replace(given, settings={**as_settings(AnyPictureSettings()), **given.settings, "shift": 2})
            for scale, given in SCALES.items()
        },
    ),
)
