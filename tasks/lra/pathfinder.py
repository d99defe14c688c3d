"""`lra/pathfinder`: are two dots the ends of one dashed path? The model reads pixels, 1,024 at `paper` scale."""

from __future__ import annotations

from collections.abc import Mapping

from ...adapters.base import ModelShape, Settings
from ..heavy import np
from .protocol import GeneratedSequences, SequenceClassification, lra_info
from .scenes import PathfinderSettings, generate_scenes
from .sequences import Sequences

_PAPER_BATCHES: Settings = {"batch_size": 256, "eval_rows": 20_000, "eval_batch_size": 256}


def make_images(chosen: PathfinderSettings) -> Mapping[str, Sequences]:
    """Draws every split, with half of each label."""
    sizes = {"train": chosen.train_rows, "validation": chosen.validation_rows, "test": chosen.test_rows}
    seeds = np.random.SeedSequence(chosen.data_seed).spawn(len(sizes))
    splits = {}
    for (name, rows), seed in zip(sizes.items(), seeds, strict=True):
        scenes = generate_scenes(np.random.default_rng(seed), rows, chosen)
        parts = [(part.images(chosen.image_size), part.labels) for part in scenes]
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
        scales={
            "smoke": (
                PathfinderSettings(
                    image_size=16, dashes=4, distractors=1, train_rows=1_000, validation_rows=200, test_rows=500
                ),
                {"steps": 40, "batch_size": 32, "eval_every": 20},
            ),
            "small": (
                PathfinderSettings(
                    image_size=24, dashes=6, distractors=3, train_rows=20_000, validation_rows=1_000, test_rows=2_000
                ),
                {"steps": 3_000, "batch_size": 64, "eval_every": 250},
            ),
            "paper": (PathfinderSettings(), {"steps": 62_400, "warmup": 0.005, "eval_every": 312, **_PAPER_BATCHES}),
        },
    ),
    PathfinderSettings,
    lambda chosen: ModelShape(context_length=chosen.image_size**2, vocab_size=256, num_classes=2),
    GeneratedSequences("pathfinder", make_images),
)
