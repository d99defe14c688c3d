"""`cifar10`: small photographs of ten kinds of things, 32 by 32 pixels in colour.

Training mirrors half of the pictures and moves each by up to 4 pixels, as is usual for this data set (He et al., arXiv
1512.03385, section 4.2). The Hedgehog paper has no results on it; in grey and as a sequence it is `lra/image`.
"""

from __future__ import annotations

from dataclasses import replace

from ..base import TaskScale
from ..data.image_sets import CIFAR10
from ..settings import as_settings
from .hub import HubPictures
from .protocol import ImageClassification, image_info
from .settings import PictureSettings

_VARIED = PictureSettings(channels=3, flips=True, shift=4)

CIFAR = ImageClassification(
    image_info(
        name="cifar10",
        summary="Which of ten things does a photograph of 32 by 32 pixels show? (accuracy)",
        data=(CIFAR10.pinned,),
        licence="that of the original data set",
        citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        scales={
            "smoke": TaskScale(
                as_settings(replace(_VARIED, train_rows=500, test_rows=200)),
                train={"steps": 20, "batch_size": 16, "eval_rows": 100},
                backbone={"patch_size": 4},
            ),
            "small": TaskScale(
                as_settings(replace(_VARIED, train_rows=10_000, test_rows=2_000)),
                train={"steps": 3_000, "batch_size": 64, "eval_every": 500},
                backbone={"patch_size": 4},
            ),
            "paper": TaskScale(
                as_settings(_VARIED),
                train={"steps": 70_000, "batch_size": 128, "lr": 1e-3, "eval_every": 700, "eval_rows": 5_000},
                backbone={"layers": 6, "heads": 6, "kv_heads": 6, "width": 384, "mlp_width": 1536, "patch_size": 4},
            ),
        },
    ),
    HubPictures(CIFAR10, image="img"),
)
