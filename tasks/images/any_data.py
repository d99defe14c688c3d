"""`images`: any labelled pictures, in the layout of the hub or in a local folder, named by settings.

    bench run --tasks images:dataset=ORG/NAME --mirror DIR ...
    bench run --tasks images:dataset=/FOLDER ...

`AnyPictureSettings` lists the settings: columns, splits, sizes. The default backbone cuts pictures into patches of 4
by 4 pixels (16 by 16 at `paper` scale), 49 of them at 28 pixels; `--set backbone.patch_size=N` takes another size,
which must divide that of the pictures. Training varies no pictures unless `flips` or `shift` is set, as a mirrored
digit or letter is another one.
"""

from __future__ import annotations

from ..base import TaskScale
from ..settings import as_settings
from .protocol import ImageClassification, image_info
from .settings import AnyPictureSettings

IMAGES = ImageClassification(
    image_info(
        name="images",
        summary="Which class does a picture of any labelled data set belong to? Name it: images:dataset=ORG/NAME",
        data=("named by the setting dataset",),
        licence="that of the data set",
        citation="Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929",
        scales={
            "smoke": TaskScale(
                as_settings(AnyPictureSettings(train_rows=1_000, test_rows=500)),
                train={"steps": 60, "batch_size": 32, "eval_rows": 100},
            ),
            "small": TaskScale(
                as_settings(AnyPictureSettings(train_rows=10_000, test_rows=5_000)),
                train={"steps": 1_000, "batch_size": 64, "lr": 1e-3, "eval_every": 200},
                backbone={"layers": 3, "heads": 4, "kv_heads": 4, "width": 96, "mlp_width": 192},
            ),
            "paper": TaskScale(
                as_settings(AnyPictureSettings()),
                train={"eval_rows": 5_000},
            ),
        },
    ),
)
