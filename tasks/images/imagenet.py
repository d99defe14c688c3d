"""`imagenet1k`: photographs of a thousand kinds of things at 224 pixels, the paper's table 9.

The paper converts ViT-B/16 (`--backbone vit-b16`, recipe `finetuned-conversion`) at 224 pixels and reports the top-1
accuracy on the validation split, whose labels are public; that is our test split. It states neither how training
pictures are varied, nor learning rates, batch or epochs: not known. Ours are mirrored, and moved by up to 28 pixels, an
eighth of a side as for CIFAR-10. All pictures are stretched to a square of 224 pixels and not cropped, as the image
processor of the checkpoint does.

The hub gives the data to those who accept its terms. Decoded, all training pictures take 193 GB of the cache.
"""

from __future__ import annotations

from dataclasses import replace

from ..base import TaskScale
from ..data.sources import DatasetId
from ..settings import as_settings
from .hub import HubPictures
from .protocol import ImageClassification, image_info
from .settings import PictureSettings

DATA = DatasetId("ILSVRC/imagenet-1k", "data", "49e2ee26f3810fb5a7536bbf732a7b07389a47b5", ("train", "validation"))

_READ = PictureSettings(image_size=224, channels=3, flips=True, shift=28)

IMAGENET1K = ImageClassification(
    image_info(
        name="imagenet1k",
        summary="Which of a thousand things does a photograph show, at 224 pixels? (accuracy)",
        data=(DATA.pinned,),
        licence="the terms of ImageNet: research that is not commercial",
        citation="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, arXiv 1409.0575",
        scales={
            "smoke": TaskScale(
                as_settings(replace(_READ, train_rows=256, test_rows=128, batch_size=32)),
                train={"steps": 10, "batch_size": 16, "eval_rows": 64},
                backbone={"patch_size": 16},
            ),
            "small": TaskScale(
                as_settings(replace(_READ, train_rows=20_000, test_rows=2_000, batch_size=32)),
                train={"steps": 2_000, "batch_size": 32, "eval_every": 500},
                backbone={"patch_size": 16},
            ),
            "paper": TaskScale(
                as_settings(_READ),
                train={"steps": 375_000, "batch_size": 1024, "lr": 1e-3, "eval_every": 5_000, "eval_rows": 5_000},
                backbone={"patch_size": 16},
            ),
        },
    ),
    HubPictures(DATA, test="validation"),
)
