"""`lra/pathfinder`: are two dots the ends of one dashed path? Read pixel by pixel, 1,024 of them at `paper` scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

from ...adapters.base import ModelShape
from ...results.record import DataIdentity
from ..base import Sources
from .declaration import lra_info
from .protocol import SequenceClassification
from .scenes import SceneSettings, generate_scenes
from .sequence_cache import SequenceCache, Sequences

GENERATOR_VERSION = "1"
_SMALLEST_IMAGE = 12


@dataclass(frozen=True)
class PathfinderSettings:
    """How images are made.

    Attributes:
        image_size: Pixels per side; from 12.
        dashes: Dashes of a long path, from 3; a distractor has a third.
        distractors: Distractors, where they find a place.
        train_rows: Training images.
        validation_rows: Images that choose the checkpoint.
        test_rows: Test images.
        data_seed: Seed of the data; a run's own seed moves initialisation and order, not the data.
        batch_size: Rows per forward pass in evaluation.
        more_metrics: Metrics beside accuracy; see `metrics/requested.py`.

    Raises:
        ValueError: An image or a path that is too small.
    """

    image_size: int = 32
    dashes: int = 9
    distractors: int = 5
    train_rows: int = 160_000
    validation_rows: int = 20_000
    test_rows: int = 20_000
    data_seed: int = 0
    batch_size: int = 128
    more_metrics: str = ""

    def __post_init__(self) -> None:
        for name, smallest in (("image_size", _SMALLEST_IMAGE), ("dashes", 3), ("distractors", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes {smallest} or more")


@dataclass(frozen=True)
class Pathfinder:
    """Generated images, half of each label in every split.

    Attributes:
        settings: What its methods take.
    """

    settings: type[PathfinderSettings] = PathfinderSettings

    def shape(self, chosen: PathfinderSettings) -> ModelShape:
        """A classifier of pixels from 0 to 255."""
        return ModelShape(context_length=chosen.image_size**2, vocab_size=256, num_classes=2)

    def identify(self, chosen: PathfinderSettings, sources: Sources) -> DataIdentity:
        """The generator, and a hash of what it makes."""
        return self._cache(chosen, sources).identity("pathfinder", GENERATOR_VERSION, {"data_seed": chosen.data_seed})

    def split(self, name: str, chosen: PathfinderSettings, sources: Sources) -> Sequences:
        """One split."""
        return self._cache(chosen, sources).split(name)

    def _cache(self, chosen: PathfinderSettings, sources: Sources) -> SequenceCache:
        key = f"{GENERATOR_VERSION} {version('numpy')} {replace(chosen, batch_size=1, more_metrics='')}"
        return SequenceCache.keyed("pathfinder", key, sources, lambda: _generate(chosen))


def _generate(chosen: PathfinderSettings) -> Mapping[str, Sequences]:
    import numpy as np

    sizes = {"train": chosen.train_rows, "validation": chosen.validation_rows, "test": chosen.test_rows}
    seeds = np.random.SeedSequence(chosen.data_seed).spawn(len(sizes))
    scenes = SceneSettings(chosen.image_size, chosen.dashes, chosen.distractors)
    splits = {}
    for (name, rows), seed in zip(sizes.items(), seeds, strict=True):
        parts = [
            (part.images(chosen.image_size), part.labels)
            for part in generate_scenes(np.random.default_rng(seed), rows, scenes)
        ]
        images, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
        splits[name] = Sequences(images.reshape(rows, -1), labels)
    return splits


PATHFINDER = SequenceClassification(
    lra_info(
        "pathfinder",
        "are two dots the ends of one dashed path, in pixels? From a generator of our own",
        data="generated",
        licence="Apache-2.0",
        citation="in the spirit of Linsley et al., arXiv 1805.08315",
        settings={
            "smoke": PathfinderSettings(
                image_size=16, dashes=4, distractors=1, train_rows=1_000, validation_rows=200, test_rows=500
            ),
            "small": PathfinderSettings(
                image_size=24, dashes=6, distractors=3, train_rows=20_000, validation_rows=1_000, test_rows=2_000
            ),
            "paper": PathfinderSettings(),
        },
        train={
            "smoke": {"steps": 40, "batch_size": 32, "eval_every": 20},
            "small": {"steps": 3_000, "batch_size": 64, "eval_every": 250},
            "paper": {
                "steps": 62_400, "batch_size": 256, "warmup": 0.005, "eval_every": 312, "eval_rows": 20_000,
                "eval_batch_size": 256,
            },
        },
    ),
    Pathfinder(),
)  # fmt: skip
